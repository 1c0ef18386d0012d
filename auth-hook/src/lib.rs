//! auth-hook
