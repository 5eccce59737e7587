//! Verdicts -> acts: signals the shim that ends a connection.
