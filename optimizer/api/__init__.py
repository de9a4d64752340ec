"""The project's face for programs: open traces, plan, simulate, bound and compare.

`from optimizer import ...` takes its names from here. Everything works on files as well as on arrays in memory;
progress is reported to a callable, and a `Cancel` token ends a search, which keeps the best plan found so far. This
room must not know who calls it: it reads no command line, hears no signal and prints nothing.
"""
