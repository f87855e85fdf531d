//! Requests to the hub: redirects followed by hand, so that the token stays with the hub; waits
//! where the server asks for it; errors that say what to do.

use std::io::Read;
use std::time::Duration;

use super::HubError;
use crate::data::error::shown;
use crate::limits::{HUB_ANSWER_BYTES_MAX, HUB_ATTEMPTS, HUB_REDIRECTS_MAX, HUB_WAIT_SECONDS_MAX};

/// A client of one hub.
pub(super) struct Http {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
    /// The first wait between attempts; each further one is twice as long.
    pause: Duration,
}

/// A body that is to be read, and what was said on the way to it.
pub(super) struct Answer {
    /// 200 or 206.
    pub status: u16,
    /// The last answer's body.
    pub body: Box<dyn Read + Send>,
    /// Bytes of the whole file, where they are known.
    pub size: Option<u64>,
    /// The file's entity tag.
    pub etag: Option<String>,
}

/// What became of a request.
enum Once {
    Done(Answer),
    /// Worth another attempt, after so many seconds if the server says so.
    Again(HubError, Option<u64>),
    Failed(HubError),
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

impl Http {
    pub fn new(endpoint: &str, token: Option<String>, pause: Duration) -> Self {
        let seconds = |n| Some(Duration::from_secs(n));
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(seconds(15))
            .timeout_recv_response(seconds(60))
            .timeout_per_read(seconds(60))
            .user_agent(concat!("trainer/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent(), endpoint: endpoint.to_string(), token, pause }
    }

    /// The answer at `path` of the hub, as JSON.
    pub fn json(&self, path: &str, what: &str) -> Result<serde_json::Value, HubError> {
        let url = format!("{}{path}", self.endpoint);
        let mut text = Vec::new();
        let answer = self.get(&url, 0, what)?;
        let limit = HUB_ANSWER_BYTES_MAX;
        let read = answer.body.take(limit + 1).read_to_end(&mut text);
        let failed = |problem: String| HubError::Answer { url: shown(&url), problem };
        read.map_err(|e| failed(shown(&e.to_string())))?;
        if text.len() as u64 > limit {
            return Err(failed(format!("it is longer than {limit} bytes")));
        }
        serde_json::from_slice(&text).map_err(|e| failed(format!("it is no JSON: {e}")))
    }

    /// The body at an address of the hub, from byte `from` on where the server can.
    pub fn get(&self, url: &str, from: u64, what: &str) -> Result<Answer, HubError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (error, wait) = match self.once(url, from, what) {
                Once::Done(answer) => return Ok(answer),
                Once::Failed(error) => return Err(error),
                Once::Again(error, wait) => (error, wait),
            };
            if attempt >= HUB_ATTEMPTS || wait.is_some_and(|s| s > HUB_WAIT_SECONDS_MAX) {
                return Err(error);
            }
            self.wait(attempt, wait);
        }
    }

    /// Waits before the next attempt.
    pub fn wait(&self, attempt: u32, seconds: Option<u64>) {
        let own = self.pause * 2u32.pow(attempt.saturating_sub(1));
        std::thread::sleep(seconds.map_or(own, Duration::from_secs));
    }

    fn once(&self, start: &str, from: u64, what: &str) -> Once {
        let mut url = start.to_string();
        let (mut etag, mut size) = (None, None);
        for _ in 0..HUB_REDIRECTS_MAX {
            let mut request = self.agent.get(&url);
            // Storage that the hub redirects to has addresses that are signed, and no right to it.
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(start)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = match request.call() {
                Ok(response) => response,
                Err(e) => {
                    let problem = shown(&e.to_string());
                    return Once::Again(HubError::Network { url: shown(&url), problem }, None);
                }
            };
            let header = |name: &str| {
                let value = response.headers().get(name)?.to_str().ok()?;
                Some(value.trim().to_string())
            };
            let tag = header("x-linked-etag").or_else(|| header("etag"));
            etag = etag.or(tag.map(|t| t.trim_start_matches("W/").trim_matches('"').to_string()));
            size = size.or(header("x-linked-size").and_then(|s| s.parse::<u64>().ok()));
            let status = response.status().as_u16();
            match status {
                200 | 206 => {
                    let range = header("content-range");
                    let total = range.and_then(|r| r.rsplit_once('/')?.1.parse().ok());
                    let length = header("content-length").and_then(|l| l.parse().ok());
                    let length = length.filter(|_| status == 200);
                    let size = size.or(total).or(length);
                    let body = Box::new(response.into_body().into_reader());
                    return Once::Done(Answer { status, body, size, etag });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let Some(to) = header("location") else { break };
                    url = match to {
                        to if to.contains("://") => to,
                        to if to.starts_with("//") => {
                            format!("{}:{to}", url.split(':').next().unwrap_or("https"))
                        }
                        to if to.starts_with('/') => format!("{}{to}", origin(&url)),
                        to => {
                            format!("{}/{to}", url.rsplit_once('/').map_or(&*url, |(dir, _)| dir))
                        }
                    };
                    if !url.starts_with("http://") && !url.starts_with("https://") {
                        break;
                    }
                    if origin(start).starts_with("https:") && url.starts_with("http:") {
                        let problem = "it redirects to an address without encryption".into();
                        return Once::Failed(HubError::Answer { url: shown(start), problem });
                    }
                }
                401 | 403 | 404 | 410 => {
                    let code = header("x-error-code").unwrap_or_default();
                    let gated = code == "GatedRepo";
                    let what = what.to_string();
                    return Once::Failed(match status {
                        _ if gated => HubError::Gated { what, page: self.endpoint.clone() },
                        401 | 403 => HubError::Forbidden {
                            what,
                            status,
                            hint: match &self.token {
                                None => {
                                    "there is no such thing, or a token is needed: set HF_TOKEN"
                                }
                                Some(_) => {
                                    "there is no such thing, or the token given by HF_TOKEN has no \
                                     right to it"
                                }
                            },
                        },
                        _ if code == "RevisionNotFound" => HubError::NoRevision { what },
                        _ => HubError::NotFound { what },
                    });
                }
                416 => return Once::Failed(HubError::Range { url: shown(&url) }),
                429 => {
                    let wait = header("retry-after").and_then(|s| s.parse::<u64>().ok());
                    let seconds = wait.map(|s| format!(" for {s} seconds")).unwrap_or_default();
                    let error = HubError::TooMany { what: what.to_string(), seconds };
                    return Once::Again(error, wait);
                }
                _ => {
                    let error = HubError::Status { url: shown(&url), status };
                    return match status >= 500 || status == 408 {
                        true => Once::Again(error, None),
                        false => Once::Failed(error),
                    };
                }
            }
        }
        let problem = "it redirects to nowhere, or without end".into();
        Once::Failed(HubError::Answer { url: shown(start), problem })
    }
}
