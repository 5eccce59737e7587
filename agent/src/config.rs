//! One YAML file -> one documented struct.
