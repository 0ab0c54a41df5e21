"""The client's side of the command line: `lmi-chat chat` and `lmi-chat invoke`. Nothing of the server is used here."""
