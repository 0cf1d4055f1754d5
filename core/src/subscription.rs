//! Subscriptions: who wants which events where. Types and SQL; the rules of each setting stand in [`crate::settings`].

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Error, Result,
    event_type::{EventType, EventTypePattern},
    id::SubscriptionId,
    retry_policy::RetryPolicy,
    seal::Keyring,
    settings::{CustomHeaders, Settings},
    signature::SigningSecret,
    target_url::TargetUrl,
};

/// Whether deliveries are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Events are accepted and delivered.
    Active,
    /// Events are accepted and wait.
    Paused,
    /// Events are stored and not delivered; what was waiting waits on.
    Disabled,
}

impl State {
    /// Its word in the API and the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }

    fn from_stored(text: &str) -> Result<Self> {
        [Self::Active, Self::Paused, Self::Disabled]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Error::internal(format!("unknown subscription state `{text}`")))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A subscription.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its id, which is also its lane's.
    pub id: SubscriptionId,
    /// Whose it is.
    pub tenant_id: String,
    /// What its owner decided.
    pub settings: Settings,
    /// What it signs with.
    pub secret: SigningSecret,
    /// Whether deliveries are made.
    pub state: State,
    /// Why it is disabled, where Postrider did it.
    pub disabled_reason: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl Subscription {
    /// Whether it wants events of this type.
    #[must_use]
    pub fn wants(&self, event_type: &EventType) -> bool {
        let patterns = &self.settings.event_types;
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(event_type))
    }
}

/// A page's place and size in a list that shows the newest first.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only what is older than this id.
    pub before: Option<Uuid>,
    /// Rows, at most.
    pub limit: i64,
}

/// Reads and writes subscriptions.
#[derive(Clone, Debug)]
pub struct Subscriptions {
    pool: PgPool,
    keyring: Keyring,
}

struct Row {
    id: Uuid,
    tenant_id: String,
    name: Option<String>,
    target_url: String,
    event_types: Vec<String>,
    metadata: Json<BTreeMap<String, String>>,
    retry_policy: Option<Json<RetryPolicy>>,
    timeout_ms: i32,
    state: String,
    disabled_reason: Option<String>,
    secret: Vec<u8>,
    headers: Vec<u8>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Subscriptions {
    /// Over this database, with secrets sealed by this keyring.
    #[must_use]
    pub fn new(pool: PgPool, keyring: Keyring) -> Self {
        Self { pool, keyring }
    }

    /// Creates one, and the lane in which its deliveries will wait.
    pub async fn create(&self, tenant_id: &str, settings: &Settings, secret: SigningSecret) -> Result<Subscription> {
        let id = SubscriptionId::new();
        let mut transaction = self.pool.begin().await?;
        sqlx::query!(
            "INSERT INTO subscriptions (id, tenant_id, name, target_url, event_types, metadata, retry_policy,
                                        timeout_ms, secret, headers)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            id.0,
            tenant_id,
            settings.name,
            settings.target_url.as_str(),
            &patterns(settings),
            Json(&settings.metadata) as _,
            stored_policy(settings) as _,
            millis(settings.timeout_ms),
            self.keyring.seal(secret.reveal().as_bytes(), id.0.as_bytes()),
            self.keyring.seal(&settings.headers.to_json(), id.0.as_bytes()),
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            "INSERT INTO lanes (id, subscription_id, lease_ms) VALUES ($1, $1, $2)",
            id.0,
            millis(settings.lease_ms())
        )
        .execute(&mut *transaction)
        .await?;
        let created = self.fetch(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(created)
    }

    /// One of them.
    pub async fn get(&self, id: SubscriptionId) -> Result<Subscription> {
        self.fetch(&mut *self.pool.acquire().await?, id).await
    }

    /// The newest first.
    pub async fn list(&self, page: Page) -> Result<Vec<Subscription>> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT id, tenant_id, name, target_url, event_types, metadata AS "metadata: _",
                      retry_policy AS "retry_policy: _", timeout_ms, state::text AS "state!", disabled_reason, secret,
                      headers, created_at, updated_at
                 FROM subscriptions
                WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR id < $1)
                ORDER BY id DESC
                LIMIT $2"#,
            page.before,
            page.limit
        );
        rows.fetch_all(&self.pool).await?.into_iter().map(|row| self.open(row)).collect()
    }

    /// Changes its settings to what `change` makes of it as it is, and its secret where `change` gives a new one.
    /// Nobody else changes it in between.
    pub async fn update(
        &self,
        id: SubscriptionId,
        change: impl FnOnce(&Subscription) -> Result<(Settings, Option<SigningSecret>)>,
    ) -> Result<Subscription> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, id).await?;
        let current = self.fetch(&mut transaction, id).await?;
        let (settings, secret) = change(&current)?;
        sqlx::query!(
            "UPDATE subscriptions
                SET name = $2, target_url = $3, event_types = $4, metadata = $5, retry_policy = $6, timeout_ms = $7,
                    headers = $8, secret = coalesce($9, secret), updated_at = now()
              WHERE id = $1",
            id.0,
            settings.name,
            settings.target_url.as_str(),
            &patterns(&settings),
            Json(&settings.metadata) as _,
            stored_policy(&settings) as _,
            millis(settings.timeout_ms),
            self.keyring.seal(&settings.headers.to_json(), id.0.as_bytes()),
            secret.map(|secret| self.keyring.seal(secret.reveal().as_bytes(), id.0.as_bytes())),
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!("UPDATE lanes SET lease_ms = $2 WHERE id = $1", id.0, millis(settings.lease_ms()))
            .execute(&mut *transaction)
            .await?;
        let updated = self.fetch(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(updated)
    }

    /// Moves it to another state. A lane that is not active is held for ever; one that becomes active is looked at
    /// at once. Moving to the state it is in changes nothing.
    pub async fn set_state(&self, id: SubscriptionId, change: StateChange) -> Result<Subscription> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, id).await?;
        let current = self.fetch(&mut transaction, id).await?;
        let to = change.target(current.state)?;
        if to == current.state {
            return Ok(current);
        }
        let reason = match &change {
            StateChange::DisableBecause(reason) => Some(*reason),
            StateChange::Pause | StateChange::Resume | StateChange::Disable | StateChange::Enable => None,
        };
        sqlx::query!(
            "UPDATE subscriptions SET state = $2::text::subscription_state, disabled_reason = $3, updated_at = now()
              WHERE id = $1",
            id.0,
            to.as_str(),
            reason
        )
        .execute(&mut *transaction)
        .await?;
        match to {
            State::Active => release_lane(&mut transaction, id).await?,
            State::Paused | State::Disabled => {
                sqlx::query!("UPDATE lanes SET hold_until = 'infinity', due_at = 'infinity' WHERE id = $1", id.0)
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        let changed = self.fetch(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(changed)
    }

    /// Deletes it. What was waiting is canceled by the workers, as they come to it.
    pub async fn delete(&self, id: SubscriptionId) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, id).await?;
        sqlx::query!("UPDATE subscriptions SET deleted_at = now(), updated_at = now() WHERE id = $1", id.0)
            .execute(&mut *transaction)
            .await?;
        release_lane(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn fetch(&self, connection: &mut PgConnection, id: SubscriptionId) -> Result<Subscription> {
        let row = sqlx::query_as!(
            Row,
            r#"SELECT id, tenant_id, name, target_url, event_types, metadata AS "metadata: _",
                      retry_policy AS "retry_policy: _", timeout_ms, state::text AS "state!", disabled_reason, secret,
                      headers, created_at, updated_at
                 FROM subscriptions
                WHERE id = $1 AND deleted_at IS NULL"#,
            id.0
        );
        self.open(row.fetch_optional(connection).await?.ok_or(Error::NotFound("subscription"))?)
    }

    fn open(&self, row: Row) -> Result<Subscription> {
        let secret = self.keyring.open(&row.secret, row.id.as_bytes()).map_err(Error::internal)?;
        let secret = SigningSecret::parse(&String::from_utf8_lossy(&secret)).map_err(Error::internal)?;
        let headers = self.keyring.open(&row.headers, row.id.as_bytes()).map_err(Error::internal)?;
        let event_types = row.event_types.iter().map(|pattern| pattern.parse::<EventTypePattern>());
        Ok(Subscription {
            id: SubscriptionId(row.id),
            tenant_id: row.tenant_id,
            settings: Settings {
                name: row.name,
                target_url: TargetUrl::from_stored(&row.target_url).map_err(Error::internal)?,
                event_types: event_types.collect::<std::result::Result<_, _>>().map_err(Error::internal)?,
                headers: CustomHeaders::from_json(&headers).map_err(Error::internal)?,
                metadata: row.metadata.0,
                retry_policy: row.retry_policy.map(|policy| policy.0).unwrap_or_default(),
                timeout_ms: row.timeout_ms.unsigned_abs(),
            },
            secret,
            state: State::from_stored(&row.state)?,
            disabled_reason: row.disabled_reason,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// A wish to change a subscription's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// active → paused
    Pause,
    /// paused → active
    Resume,
    /// any → disabled
    Disable,
    /// disabled → active
    Enable,
    /// any → disabled, by Postrider itself, for this reason.
    DisableBecause(&'static str),
}

impl StateChange {
    /// Where it leads from a state; a conflict where the wish does not fit.
    fn target(self, from: State) -> Result<State> {
        let conflict = |message: &str| Err(Error::Conflict(message.to_owned()));
        match (self, from) {
            (Self::Pause, State::Active | State::Paused) => Ok(State::Paused),
            (Self::Pause, State::Disabled) => conflict("a disabled subscription cannot be paused; enable it first"),
            (Self::Resume, State::Paused | State::Active) | (Self::Enable, State::Disabled | State::Active) => {
                Ok(State::Active)
            }
            (Self::Resume, State::Disabled) => conflict("a disabled subscription cannot be resumed; enable it"),
            (Self::Disable | Self::DisableBecause(_), _) => Ok(State::Disabled),
            (Self::Enable, State::Paused) => conflict("a paused subscription is not disabled; resume it"),
        }
    }
}

/// Locks the row, so that changes of one subscription come one after the other.
async fn lock(connection: &mut PgConnection, id: SubscriptionId) -> Result<()> {
    sqlx::query!("SELECT id FROM subscriptions WHERE id = $1 AND deleted_at IS NULL FOR UPDATE", id.0)
        .fetch_optional(connection)
        .await?
        .map(|_| ())
        .ok_or(Error::NotFound("subscription"))
}

/// Lets the lane be served again, from now, and wakes the workers when this transaction commits.
async fn release_lane(connection: &mut PgConnection, id: SubscriptionId) -> Result<()> {
    sqlx::query!(
        "UPDATE lanes SET hold_until = '-infinity', due_at = clock_timestamp(), drained_at = NULL WHERE id = $1",
        id.0
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("SELECT pg_notify(current_schema() || '_wake', '')").execute(connection).await?;
    Ok(())
}

fn patterns(settings: &Settings) -> Vec<String> {
    settings.event_types.iter().map(ToString::to_string).collect()
}

/// The policy to store: none where it is the default, so that a better default reaches those who never chose.
fn stored_policy(settings: &Settings) -> Option<Json<&RetryPolicy>> {
    Some(&settings.retry_policy).filter(|policy| **policy != RetryPolicy::default()).map(Json)
}

fn millis(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
