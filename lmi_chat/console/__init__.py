"""Show an operator the server at work: figures of the last minutes, the last requests, the files of the page."""
