//! What operators order of the connections to an enclave: drain, resume, resize, reset the breaker.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;

use super::{JSON, TEXT, page};
use crate::pool::Upstreams;

/// `POST` to `drain`, `resume`, `reset` or `resize` under it; `?enclave=ID` for one enclave of several,
/// `?min=N&max=N` for `resize`.
pub(super) const PREFIX: &str = "/debug/pool/";

const HOW: &str =
    "drain resume reset resize?min=N&max=N, each with enclave=ID for one of several\n";

/// Does it and answers with what `/debug/status` shows of the pools.
pub(super) fn handle(upstreams: &Upstreams, path: &str, query: &str) -> Response<Full<Bytes>> {
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let chosen = upstreams.find(value("enclave"));
    if chosen.is_empty() {
        return page(StatusCode::NOT_FOUND, TEXT, "no enclave has this id\n".to_owned());
    }
    let number = |name: &str| value(name).and_then(|text| text.parse().ok());
    for upstream in chosen {
        match path.strip_prefix(PREFIX) {
            Some("drain") => upstream.drain(true),
            Some("resume") => upstream.drain(false),
            Some("reset") => upstream.reset_breaker(),
            Some("resize") => {
                let (Some(min), Some(max)) = (number("min"), number("max")) else {
                    return page(StatusCode::BAD_REQUEST, TEXT, HOW.to_owned());
                };
                if let Err(errors) = upstream.resize(min, max) {
                    return page(StatusCode::BAD_REQUEST, TEXT, errors.join("\n") + "\n");
                }
            }
            _ => return page(StatusCode::NOT_FOUND, TEXT, HOW.to_owned()),
        }
    }
    page(StatusCode::OK, JSON, upstreams.debug().to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config;
    use crate::pool::Upstream;

    #[test]
    fn orders_reach_the_enclave_that_is_named_and_wrong_ones_none() {
        let upstreams = Upstreams::default();
        for name in ["a", "b"] {
            upstreams.add(&Arc::new(Upstream::new(name, config::Pool::default())));
        }
        let ask = |path: &str, query: &str| handle(&upstreams, path, query).status();
        assert_eq!(ask("/debug/pool/drain", "enclave=b"), 200);
        assert_eq!(ask("/debug/pool/resize", "min=4&max=8&enclave=a"), 200);
        let debug = upstreams.debug();
        assert_eq!((&debug[0]["draining"], &debug[1]["draining"]), (&false.into(), &true.into()));
        assert_eq!((&debug[0]["max"], &debug[1]["max"]), (&8.into(), &32.into()));
        assert_eq!(ask("/debug/pool/resume", ""), 200);
        assert_eq!(upstreams.debug()[1]["draining"], false);
        assert_eq!(ask("/debug/pool/reset", ""), 200);
        for (path, query, status) in [
            ("/debug/pool/drain", "enclave=c", 404),
            ("/debug/pool/burn", "", 404),
            ("/debug/pool/resize", "min=4", 400),
            ("/debug/pool/resize", "min=9&max=8", 400),
        ] {
            assert_eq!(ask(path, query), status, "{path}?{query}");
        }
    }
}
