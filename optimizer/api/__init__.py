"""The project's face for programs: open traces, plan, simulate, bound and compare.

`from optimizer import ...` takes its names from here. Everything works on files as well as on arrays in memory;
progress is reported to a callable, and a `Cancel` token ends a search with what it has found. Must not know who
calls it: it reads no command line, hears no signal and prints nothing.
"""
