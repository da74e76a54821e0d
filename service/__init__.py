"""From a published version to answers over HTTP."""
