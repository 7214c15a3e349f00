"""The command line: commands, console output, project folder and the demo."""
