"""Run the commands `lmi-chat` and `djl-serving`."""
