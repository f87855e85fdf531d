//! Plugins, end to end.
