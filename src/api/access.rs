//! Who may do what.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::Caller;

/// The group whose members may do everything.
const GROUP: &str = "c3os";

/// Lets a request through, or says why not.
pub(super) async fn check(
    State(state): State<Arc<super::State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let allowed = match caller {
        Caller::Unix { uid, gid } => may_do_everything(uid, gid, state.user, || groups_of(uid)),
        Caller::Tcp => over_tcp(&request, &state.bearer),
    };
    match allowed {
        Ok(()) => next.run(request).await,
        Err(why) => refuse(StatusCode::FORBIDDEN, &why),
    }
}

/// An answer of words: what is wrong, with the fix.
pub(super) fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

fn may_do_everything(
    uid: u32,
    gid: u32,
    user: Option<u32>,
    groups: impl FnOnce() -> (Option<u32>, Vec<u32>),
) -> Result<(), String> {
    if uid == 0 || Some(uid) == user {
        return Ok(());
    }
    let (admitted, mut own) = groups();
    own.push(gid);
    if admitted.is_some_and(|admitted| own.contains(&admitted)) {
        return Ok(());
    }
    Err(format!("uid {uid} may not use this socket: be root, or a member of the group `{GROUP}`"))
}

/// The id of our group, and all groups of a user.
fn groups_of(uid: u32) -> (Option<u32>, Vec<u32>) {
    let admitted = nix::unistd::Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw());
    let groups = nix::unistd::User::from_uid(uid.into()).ok().flatten().and_then(|user| {
        let name = std::ffi::CString::new(user.name).ok()?;
        nix::unistd::getgrouplist(&name, user.gid).ok()
    });
    (admitted, groups.unwrap_or_default().into_iter().map(|group| group.as_raw()).collect())
}

fn over_tcp(request: &Request, bearer: &str) -> Result<(), String> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    // A page of another site may have been given our address under its own name (DNS rebinding).
    if !header(header::HOST).is_some_and(is_local) {
        return Err("this API answers to localhost, 127.0.0.1 and [::1] only".to_owned());
    }
    if header(header::ORIGIN).is_some_and(|origin| !origin.strip_prefix("http://").is_some_and(is_local)) {
        return Err("this API does not answer pages of other sites".to_owned());
    }
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    if reads && !is_secret(request.uri().path()) {
        return Ok(());
    }
    let given =
        header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    // Both are hashed first, so that the time it takes says nothing.
    let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    if digest(given).as_ref() == digest(bearer).as_ref() {
        return Ok(());
    }
    Err("over TCP this needs `Authorization: Bearer` with the token in /run/c3os/api.token; the verbs of c3os use the \
         unix socket"
        .to_owned())
}

fn is_secret(path: &str) -> bool {
    path.trim_end_matches('/') == "/api/v1/kubeconfig"
}

/// `localhost:8080` and the like.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    matches!(name, "localhost" | "127.0.0.1" | "::1")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let builder = Request::builder().method(method).uri(path);
        headers
            .iter()
            .fold(builder, |builder, (name, value)| builder.header(*name, *value))
            .body(Body::empty())
            .unwrap()
    }

    #[test]
    fn over_tcp_anybody_reads_and_nobody_changes_without_the_token() {
        let local = ("host", "localhost:8080");
        assert!(over_tcp(&request("GET", "/api/v1/status", &[local]), "t").is_ok());
        assert!(over_tcp(&request("GET", "/api/v1/kubeconfig", &[local]), "t").is_err());
        assert!(over_tcp(&request("GET", "/api/v1/kubeconfig/", &[local]), "t").is_err());
        assert!(over_tcp(&request("PUT", "/api/v1/roles/x", &[local]), "t").is_err());
        let with_token = [local, ("authorization", "Bearer t")];
        assert!(over_tcp(&request("PUT", "/api/v1/roles/x", &with_token), "t").is_ok());
        assert!(
            over_tcp(&request("PUT", "/api/v1/roles/x", &[local, ("authorization", "Bearer u")]), "t")
                .is_err()
        );
    }

    #[test]
    fn pages_of_other_sites_are_turned_away() {
        assert!(over_tcp(&request("GET", "/api/v1/status", &[("host", "evil.example")]), "t").is_err());
        assert!(
            over_tcp(&request("GET", "/api/v1/status", &[("host", "localhost.evil.example")]), "t").is_err()
        );
        assert!(over_tcp(&request("GET", "/api/v1/status", &[]), "t").is_err());
        let foreign = [("host", "127.0.0.1:8080"), ("origin", "https://evil.example")];
        assert!(over_tcp(&request("GET", "/api/v1/status", &foreign), "t").is_err());
        let own = [("host", "[::1]:8080"), ("origin", "http://[::1]:8080")];
        assert!(over_tcp(&request("GET", "/api/v1/status", &own), "t").is_ok());
    }

    #[test]
    fn root_the_group_and_whoever_ran_sudo_may_do_everything() {
        let none = || (None, Vec::new());
        assert!(may_do_everything(0, 0, None, none).is_ok());
        assert!(may_do_everything(1000, 1000, Some(1000), none).is_ok());
        assert!(may_do_everything(1000, 1000, None, || (Some(77), vec![5, 77])).is_ok());
        assert!(may_do_everything(1000, 77, None, || (Some(77), vec![])).is_ok());
        let refused = may_do_everything(1000, 1000, Some(1001), || (Some(77), vec![5])).unwrap_err();
        assert!(refused.contains("uid 1000") && refused.contains("c3os"), "{refused}");
    }
}
