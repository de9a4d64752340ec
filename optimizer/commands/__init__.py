"""The commands: parse, call, print. Heavy modules are imported where a command runs, so that help is quick."""
