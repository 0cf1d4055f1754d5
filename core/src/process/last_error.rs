//! The last error that this process has logged, so that people see it where they look at processes. It is kept in
//! memory, and is as long as a line.

use std::{
    fmt::{self, Write},
    sync::Mutex,
};

use chrono::{DateTime, Utc};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Characters of an error that are kept.
pub const ERROR_CHARACTERS_MAX: usize = 500;

static LAST: Mutex<Option<LastError>> = Mutex::new(None);

/// An error that was logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// What was logged, with its fields, shortened to [`ERROR_CHARACTERS_MAX`].
    pub message: String,
    /// When it was logged.
    pub at: DateTime<Utc>,
}

/// The last error that was logged; `None` where none was.
#[must_use]
pub fn get() -> Option<LastError> {
    LAST.lock().expect("nothing panics while it is held").clone()
}

/// Keeps every error that is logged, until the next.
pub(crate) struct KeepLastError;

impl<S: Subscriber> Layer<S> for KeepLastError {
    #[expect(clippy::disallowed_methods, reason = "a log line has the time at which it is written")]
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            let last = LastError { message: text_of(event), at: Utc::now() };
            *LAST.lock().expect("nothing panics while it is held") = Some(last);
        }
    }
}

/// The message of an event and its fields, shortened.
fn text_of(event: &Event<'_>) -> String {
    let mut text = Text::default();
    event.record(&mut text);
    let text: String = [text.message, text.fields].concat();
    // Postgres cannot store a NUL.
    text.chars().filter(|one| !one.is_control()).take(ERROR_CHARACTERS_MAX).collect()
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_last_error_is_kept_with_its_fields() {
        let subscriber = tracing_subscriber::registry().with(KeepLastError);
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(lane = 7, "the first\nerror");
            tracing::warn!("no error");
            assert_eq!(get().expect("there is one").message, "the firsterror lane=7");
            tracing::error!("{}", "x".repeat(ERROR_CHARACTERS_MAX + 1));
            assert_eq!(get().expect("there is one").message.len(), ERROR_CHARACTERS_MAX);
        });
    }
}
