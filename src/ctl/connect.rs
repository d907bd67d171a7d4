//! Where a cluster is, as one string that fits an environment variable.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The most endpoints of a kind.
const ENDPOINTS_MAX: usize = 64;

/// The endpoints of a cluster: `HOST:PORT,HOST:PORT;admin=HOST:PORT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Connection {
    /// Where clients call.
    pub(super) client: Vec<String>,
    /// Where operators call.
    pub(super) admin: Vec<String>,
}

impl Connection {
    /// Of nodes whose endpoints are known.
    pub(super) fn new(client: Vec<String>, admin: Vec<String>) -> Self {
        Self { client, admin }
    }
}

impl FromStr for Connection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut connection = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (list, endpoints) = match part.split_once('=') {
                Some(("admin", endpoints)) => (&mut connection.admin, endpoints),
                Some(("client", endpoints)) => (&mut connection.client, endpoints),
                Some((kind, _)) => {
                    return Err(format!("{kind:?} is no kind of endpoint: client and admin are accepted"));
                }
                None => (&mut connection.client, part),
            };
            for endpoint in endpoints.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty()) {
                list.push(checked(endpoint)?);
            }
            if list.len() > ENDPOINTS_MAX {
                return Err(format!("more than {ENDPOINTS_MAX} endpoints"));
            }
        }
        match connection.client.is_empty() && connection.admin.is_empty() {
            true => Err("names no endpoint: HOST:PORT,HOST:PORT;admin=HOST:PORT is accepted".into()),
            false => Ok(connection),
        }
    }
}

/// An endpoint as `http://host:port`.
fn checked(text: &str) -> Result<String, String> {
    let refused = || format!("{text:?} is no endpoint: HOST:PORT or http://HOST:PORT is accepted");
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let (host, port) = address.rsplit_once(':').ok_or_else(refused)?;
    let port_is_right = port.parse::<u16>().is_ok_and(|port| port != 0);
    let host_is_right = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.[]:".contains(c));
    (port_is_right && host_is_right).then(|| format!("http://{address}")).ok_or_else(refused)
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |endpoints: &[String]| {
            let bare = endpoints.iter().map(|e| e.strip_prefix("http://").unwrap_or(e));
            bare.collect::<Vec<_>>().join(",")
        };
        write!(f, "{}", bare(&self.client))?;
        if !self.admin.is_empty() {
            write!(f, ";admin={}", bare(&self.admin))?;
        }
        Ok(())
    }
}

/// A time as people write it: `250ms`, `10s`, `5m`, `1h`; a millisecond to a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("{text:?} is no time: 250ms, 10s, 5m, 1h are accepted, from 1ms to 24h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| refused())?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refused()),
    };
    let ms = number.checked_mul(unit_ms).filter(|ms| (1..=86_400_000).contains(ms)).ok_or_else(refused)?;
    Ok(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_read_back_as_it_is_written() {
        let connection: Connection = " 127.0.0.1:1, http://[::1]:2/ ; admin=host-1.net:3".parse().unwrap();
        assert_eq!(connection.client, ["http://127.0.0.1:1", "http://[::1]:2"]);
        assert_eq!(connection.admin, ["http://host-1.net:3"]);
        assert_eq!(connection.to_string().parse(), Ok(connection));
        assert_eq!("admin=a:1".parse::<Connection>().unwrap().client, [""; 0]);
    }

    #[test]
    fn what_is_no_connection_is_refused() {
        let many = vec!["a:1"; 65].join(",");
        for text in
            ["", ";", "host", "host:", ":1", "host:0", "host:65536", "ftp://x:1", "a b:1", "x=a:1", "a\u{7}:1", &many]
        {
            assert!(text.parse::<Connection>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_have_a_unit_and_bounds() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "5", "0s", "-1s", "25h", "1.5s", "s", "99999999999999999999s", "10 s"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
