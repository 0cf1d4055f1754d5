//! The columns of the list of deliveries. Which ones are shown stands in the address, so a link shows a colleague the
//! same table. The column that names the event is always there.

use maud::{Markup, html};
use postrider_core::delivery::Delivery;

use crate::ui::{
    deliveries::{Receivers, answer},
    fields::{CURSOR, Fields},
    page::Visit,
    parts,
};

/// The field of the address that names a column; it stands there once for each.
pub(crate) const COLUMNS: &str = "columns";

/// A column that can be shown or left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Status,
    Receiver,
    Tenant,
    Answer,
    Duration,
    Attempts,
    Next,
    Created,
    Finished,
}

impl Column {
    /// All columns, in their order.
    const ALL: [Self; 9] = [
        Self::Status,
        Self::Receiver,
        Self::Tenant,
        Self::Answer,
        Self::Duration,
        Self::Attempts,
        Self::Next,
        Self::Created,
        Self::Finished,
    ];

    /// The word in the address.
    fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Receiver => "receiver",
            Self::Tenant => "tenant",
            Self::Answer => "answer",
            Self::Duration => "duration",
            Self::Attempts => "attempts",
            Self::Next => "next",
            Self::Created => "created",
            Self::Finished => "finished",
        }
    }

    /// What stands above the column.
    fn title(self) -> &'static str {
        match self {
            Self::Status => "Status",
            Self::Receiver => "Receiver",
            Self::Tenant => "Tenant",
            Self::Answer => "Last answer",
            Self::Duration => "Took",
            Self::Attempts => "Attempts",
            Self::Next => "Next attempt",
            Self::Created => "Created",
            Self::Finished => "Finished",
        }
    }

    /// Whether the column is shown where the address names none.
    fn is_usual(self) -> bool {
        match self {
            Self::Status
            | Self::Receiver
            | Self::Answer
            | Self::Duration
            | Self::Attempts
            | Self::Next
            | Self::Created => true,
            Self::Tenant | Self::Finished => false,
        }
    }

    /// How the column is set: numbers to the right, and what a screen of middle width has no room for.
    fn class(self) -> Option<&'static str> {
        match self {
            Self::Duration | Self::Attempts => Some("number wide"),
            Self::Next | Self::Tenant | Self::Finished => Some("wide"),
            Self::Created => Some("made"),
            Self::Status | Self::Receiver | Self::Answer => None,
        }
    }

    /// The head of the column.
    pub(super) fn head(self) -> Markup {
        html! { th scope="col" class=[self.class()] { (self.title()) } }
    }

    /// The cell of a delivery.
    pub(super) fn cell(self, visit: &Visit, delivery: &Delivery, receivers: &Receivers) -> Markup {
        let content = match self {
            // On a card it is the first line, and needs no name.
            Self::Status => return html! { td { (parts::status(visit, delivery.status)) } },
            Self::Receiver => receivers.cell(delivery),
            Self::Tenant => parts::text(&delivery.tenant_id),
            Self::Answer => answer(delivery),
            Self::Duration => {
                let took = delivery.last_duration_ms.map(|ms| parts::text(parts::millis(ms.into())));
                took.unwrap_or_else(|| html! { span.none { "–" } })
            }
            Self::Attempts => parts::text(delivery.attempt_count),
            Self::Next => parts::maybe_time(visit, delivery.next_attempt_at),
            Self::Created => parts::time(visit, delivery.created_at),
            Self::Finished => parts::maybe_time(visit, delivery.finished_at),
        };
        html! { td data-label=(self.title()) class=[self.class()] { (content) } }
    }
}

/// The columns that the address names, or else the usual ones.
pub(super) fn shown(fields: &Fields) -> Vec<Column> {
    let named: Vec<_> = fields.all(COLUMNS).collect();
    let is_shown = |column: &Column| {
        if named.is_empty() { column.is_usual() } else { named.contains(&column.name()) }
    };
    Column::ALL.into_iter().filter(is_shown).collect()
}

/// The menu that chooses columns.
pub(super) fn menu(visit: &Visit) -> Markup {
    let shown = shown(&visit.query);
    let without = visit.query.with(COLUMNS, None);
    html! {
        details.sure {
            summary.button.small { (visit.icon("settings")) "Columns" }
            form.card.columns-menu method="get" action=(visit.to_all(&visit.path)) {
                @for (name, value) in without.with(CURSOR, None).pairs() {
                    input type="hidden" name=(name) value=(value);
                }
                fieldset {
                    legend { "Columns besides the event" }
                    @for column in Column::ALL {
                        label.tick {
                            input type="checkbox" name=(COLUMNS) value=(column.name())
                                checked[shown.contains(&column)];
                            span { (column.title()) }
                        }
                    }
                }
                div.actions {
                    button.button.main type="submit" { "Show" }
                    a.button href=(visit.with_query(&without)) { "The usual ones" }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_addresses() {
        let names = |query: &str| shown(&Fields::parse(query.as_bytes())).into_iter().map(Column::name).collect();
        let usual: Vec<_> = names("status=pending");
        assert_eq!(usual, ["status", "receiver", "answer", "duration", "attempts", "next", "created"]);
        let named: Vec<_> = names("columns=finished&columns=status&columns=nonsense");
        assert_eq!(named, ["status", "finished"]);
    }
}
