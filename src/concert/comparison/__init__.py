"""A set of recipes trained, certified and reported together: `concert compare SPEC`."""
