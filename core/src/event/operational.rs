//! Operational events: what the operator is told about subscriptions and deliveries, as events of the operator's own
//! tenant. They are written by the SQL function `operational_event`, in the transaction that causes them; the words are
//! here. docs/operational-events.md tells the fields of each.

use crate::text_enum::text_enum;

/// The tenant whose subscriptions receive operational events, where the configuration names no other. The SQL function
/// `operator_tenant` names it, too, for sessions that are not ours.
pub const OPERATOR_TENANT_DEFAULT: &str = "operator";

text_enum! {
    /// The types of operational events.
    pub enum OperationalEvent {
        /// A subscription's attempts have done nothing but fail for half, or for three quarters, of the time after
        /// which it is disabled.
        SubscriptionFailing = "postrider.subscription.failing",
        /// Postrider itself has disabled a subscription.
        SubscriptionDisabled = "postrider.subscription.disabled",
        /// An attempt has succeeded for a subscription of which it was told that it was failing.
        SubscriptionRecovered = "postrider.subscription.recovered",
        /// A subscription's circuit has opened.
        CircuitOpened = "postrider.circuit.opened",
        /// A subscription's circuit lets probes through.
        CircuitHalfOpen = "postrider.circuit.half_open",
        /// A subscription's circuit has closed.
        CircuitClosed = "postrider.circuit.closed",
        /// Deliveries of a subscription, or inline deliveries of a tenant, have become dead letters.
        DeadLetter = "postrider.delivery.dead_letter",
    }
}
