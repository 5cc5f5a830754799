use devpostgres::{SUPERUSER, Server};

use super::*;

/// As the superuser, on the socket.
async fn client(server: &Server) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(server.folder()).port(server.port()).user(SUPERUSER).dbname("postgres");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn text(error: &StoreError) -> String {
    error.to_string()
}

#[tokio::test]
async fn steps_are_made_once_in_order_and_a_newer_schema_is_left_alone() {
    let server = Server::start(&[]).unwrap();
    let mut client = client(&server).await;
    assert_eq!(migrate(&mut client, "sigil").await, Ok((0, 1)));
    assert_eq!(migrate(&mut client, "sigil").await, Ok((1, 1)));
    let id = server.sql("SELECT store_id FROM sigil.meta").unwrap();

    let next = [MIGRATIONS[0], "ALTER TABLE {s}.key ADD COLUMN more text"];
    assert_eq!(migrate_with(&mut client, "sigil", &next).await, Ok((1, 2)));
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'sigil' AND \
                   table_name = 'key'";
    assert_eq!(server.sql(columns).unwrap(), "4");
    assert_eq!(server.sql("SELECT store_id FROM sigil.meta").unwrap(), id, "the same store");

    let newer = migrate(&mut client, "sigil").await.unwrap_err();
    assert!(text(&newer).contains("nothing was changed"), "{newer}");
    let read = check(2, id.clone()).unwrap_err();
    assert!(text(&read).contains("use a newer program"), "{read}");
    let older = check(0, id.clone()).unwrap_err();
    assert!(text(&older).contains("ctl store migrate"), "{older}");
    assert_eq!(check(1, id.clone()), Ok(Meta { store_id: id }));
}

#[tokio::test]
async fn a_step_that_fails_leaves_the_schema_as_it_was() {
    let server = Server::start(&[]).unwrap();
    let mut client = client(&server).await;
    let broken = [MIGRATIONS[0], "ALTER TABLE {s}.key ADD COLUMN more text; SELECT 1 / 0"];
    assert!(migrate_with(&mut client, "sigil", &broken).await.is_err());
    assert_eq!(server.sql("SELECT to_regnamespace('sigil') IS NULL").unwrap(), "t");
    assert_eq!(migrate(&mut client, "sigil").await, Ok((0, 1)));
    assert!(migrate_with(&mut client, "sigil", &broken).await.is_err());
    assert_eq!(server.sql("SELECT version FROM sigil.meta").unwrap(), "1");
}

#[tokio::test]
async fn of_several_that_migrate_at_once_one_works_and_all_succeed() {
    let server = Server::start(&[]).unwrap();
    let migrations = (0..8).map(|_| async {
        let mut client = client(&server).await;
        migrate(&mut client, "sigil").await.unwrap()
    });
    let results = futures_util::future::join_all(migrations).await;
    assert_eq!(results.iter().filter(|versions| **versions == (0, 1)).count(), 1, "{results:?}");
    assert!(results.iter().all(|(_, newest)| *newest == 1));
}

#[tokio::test]
async fn a_role_that_is_granted_the_tables_can_neither_remove_rows_nor_tables() {
    let server = Server::start(&[]).unwrap();
    let mut client = client(&server).await;
    migrate(&mut client, "sigil").await.unwrap();
    server.sql("CREATE ROLE \"odd \"\"name\" LOGIN").unwrap();
    grant(&client, "sigil", "odd \"name").await.unwrap();
    let as_role = |sql: &str| server.sql(&format!("SET ROLE \"odd \"\"name\"; {sql}"));
    as_role("INSERT INTO sigil.key VALUES ('a', 'default', 'b')").unwrap();
    as_role("UPDATE sigil.key SET value = 'c'").unwrap();
    assert_eq!(as_role("SELECT count(*) FROM sigil.key").unwrap(), "1");
    for forbidden in [
        "DELETE FROM sigil.key",
        "TRUNCATE sigil.key",
        "DROP TABLE sigil.key",
        "UPDATE sigil.meta SET version = 9",
    ] {
        assert!(as_role(forbidden).is_err(), "{forbidden}");
    }
}
