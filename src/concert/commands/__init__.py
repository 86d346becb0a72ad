"""The commands, one file each: `parser()` has its arguments, `run(options, argv)` what it does.

Wiring between the library and the console, no logic of its own.
"""
