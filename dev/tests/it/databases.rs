//! Databases of tests: each test has its own, a copy of one that has the whole schema.

use std::sync::OnceLock;

use dev::postgres::{Durability, Postgres};
use postrider_core::upkeep;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::world::{database_config, environment};

/// Makes a fresh database with the whole schema; answers its URL.
pub async fn database() -> String {
    create_database(Some("template_postrider")).await
}

/// Makes a fresh database, as a copy of another or empty; answers its URL.
pub async fn create_database(template: Option<&str>) -> String {
    // A database cannot be copied while somebody is connected to it, so one test copies at a time.
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let server = server();
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut admin = PgConnection::connect(&format!("{server}postgres")).await.expect("the server answers");
    let name = format!("test_{}", Uuid::now_v7().simple());
    let template = template.unwrap_or("template0");
    let create = format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY");
    sqlx::query(sqlx::AssertSqlSafe(create)).execute(&mut admin).await.expect("a database is made");
    admin.close().await.expect("closed");
    format!("{server}{name}")
}

/// Removes a database, and ends the sessions that use it.
pub async fn drop_database(url: &str) {
    let (server, name) = url.rsplit_once('/').expect("a database's URL");
    let mut admin = PgConnection::connect(&format!("{server}/postgres")).await.expect("the server answers");
    let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&mut admin).await.expect("the database is removed");
    admin.close().await.expect("closed");
}

/// The URL of the server that all tests of this run share, without the name of a database.
pub fn server() -> &'static str {
    static SERVER: OnceLock<String> = OnceLock::new();
    SERVER.get_or_init(|| {
        let url =
            Postgres::temporary("tests", Durability::Disposable).expect("Postgres starts").end_with_this_process();
        let template = format!("{url}template_postrider");
        let admin = format!("{url}postgres");
        // The migrations run on a runtime of their own, because the caller's runtime must not be blocked.
        let migrate = async move {
            let mut admin = PgConnection::connect(&admin).await?;
            sqlx::query("CREATE DATABASE template_postrider").execute(&mut admin).await?;
            admin.close().await?;
            upkeep::bring_up_to_date(&database_config(&environment(&template))).await?;
            anyhow::Ok(())
        };
        let run =
            || tokio::runtime::Runtime::new().expect("a runtime").block_on(migrate).expect("the template is made");
        std::thread::spawn(run).join().expect("the template is made");
        url
    })
}
