//! How processes learn of changes: the database announces each change, listeners receive it, caches drop what it
//! touches.

pub mod cache;
pub mod changes;
pub mod notify;
