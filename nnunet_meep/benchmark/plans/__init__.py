"""What a benchmark consists of: a plan in TOML, read and checked."""
