"""Read requests to transcribe or translate a recording, and render the text of its speech."""
