"""One module a command: arguments in, console out, exit code back. `builder.cli` calls `main(arguments, console)`."""
