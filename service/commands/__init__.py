"""The subcommands of `fieldmark`, but for `serve`."""
