"""The commands, each of which parses its options, calls the API and prints the result. Heavy modules are imported only
where a command runs, so that help is shown quickly."""
