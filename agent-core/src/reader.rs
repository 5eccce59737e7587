//! A bounded cursor over a frame: a child reader cannot see past it.
