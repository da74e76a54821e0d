"""The web page of the server: the files a browser gets, and the three answers that only the page asks for."""
