//! What keeps the database in order: daily partitions, repairs and clean-ups, and the invariants that must hold.

pub mod invariants;
pub mod maintenance;
pub mod partition;
