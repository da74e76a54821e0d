"""What keeps the processes of a server alive, and who of them gets a core first."""
