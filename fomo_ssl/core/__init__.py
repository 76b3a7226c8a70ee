"""Words every room shares: types, errors, the registry and counter-based randomness."""
