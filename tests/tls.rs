//! Clients are served over TLS: three real processes with a certificate made for this test.

mod support;

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use playhead::ambient::{SystemClock, random_u64};
use playhead::client::{Builder, Client};
use playhead::proto::v1;
use support::{Cluster, Result};

/// A certificate for this machine that is its own authority, and its key.
fn certificate() -> Result<(String, String)> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string(), "localhost".to_string()])?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

fn builder(endpoints: &[String]) -> Builder {
    let builder = Client::builder(Arc::new(SystemClock::new()), random_u64()).endpoints(endpoints.to_vec());
    builder.deadline(Duration::from_secs(10)).connect(Duration::from_secs(5))
}

fn start(account: &str) -> v1::StartViewRequest {
    v1::StartViewRequest {
        account_id: account.into(),
        view_id: "v".into(),
        profile_id: "p".into(),
        device_id: "d".into(),
        title_id: "t".into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_served_over_tls_and_whoever_does_not_speak_it_is_not_waited_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (pem, key) = certificate()?;
    let (pem_file, key_file) = (folder.path().join("node.pem"), folder.path().join("node.key"));
    std::fs::write(&pem_file, &pem)?;
    std::fs::write(&key_file, &key)?;
    let (pem_flag, key_flag) = (pem_file.to_string_lossy().into_owned(), key_file.to_string_lossy().into_owned());
    let flags = ["--client-tls-certificate", &pem_flag, "--client-tls-key", &key_flag];
    let cluster = Cluster::start(3, 8, &flags).await?;
    let plain = cluster.local.client_endpoints();
    let secure: Vec<String> = plain.iter().map(|endpoint| endpoint.replace("http://", "https://")).collect();

    // Connected, and silent: to be closed by the node, whatever else happens meanwhile.
    let silent = TcpStream::connect(plain[0].trim_start_matches("http://"))?;
    let closed = tokio::task::spawn_blocking(move || {
        silent.set_read_timeout(Some(Duration::from_secs(120)))?;
        (&silent).read(&mut [0; 64])
    });

    let client = builder(&secure[..1]).authority(&pem).build()?;
    for account in 0..20 {
        // Most are led by another node: the client follows the hints to it, over TLS again.
        client.start_view(start(&format!("account-{account}"))).await?;
    }
    let account = v1::GetAccountRequest { account_id: "account-7".into(), ..Default::default() };
    assert_eq!(client.get_account(account).await?.account.map(|account| account.account_id), Some("account-7".into()));

    let short = Duration::from_secs(2);
    let without = builder(&plain).deadline(short).build()?;
    assert!(without.start_view(start("ann")).await.is_err(), "nothing is served without TLS");
    let (other, _) = certificate()?;
    let stranger = builder(&secure).authority(&other).deadline(short).build()?;
    assert!(stranger.start_view(start("ann")).await.is_err(), "a certificate of another authority is not trusted");

    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_clusterctl"))
        .args(["account", "show", "account-7", "--authority", &pem_flag])
        .env("PLAYHEAD_ENDPOINTS", plain.join(","))
        .output()
        .await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    assert!(closed.await?.is_ok_and(|bytes| bytes == 0), "a handshake that never comes is given up");
    Ok(())
}
