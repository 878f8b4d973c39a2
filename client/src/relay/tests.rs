//! What is handed on, and how much of it.

use super::*;

#[test]
fn only_calls_of_administrators_are_handed_on() {
    assert_eq!(path("/umbra.admin.v1.Admin/Status").as_deref(), Some("/umbra.admin.v1.Admin/Status"));
    let long = format!("/{SERVICE}/{}", "x".repeat(METHOD_MAX + 1));
    for bad in [
        "/umbra.admin.v1.Admin/",
        "/umbra.admin.v1.Admin",
        "/umbra.admin.v1.Admin/../Devices/Login",
        "/umbra.admin.v1.Admin/Status/",
        "/umbra.admin.v1.Administrator/Status",
        "/umbra.v1.Devices/Login",
        "umbra.admin.v1.Admin/Status",
        "",
        &long,
    ] {
        assert_eq!(path(bad), None, "{bad}");
    }
}

/// A controller that says who it heard.
async fn heard(body: Vec<u8>) -> Result<Response<Body>, Status> {
    let far = tower::service_fn(|request: Request<Body>| async move {
        let names: Vec<_> = request.headers().keys().map(|name| name.as_str().to_owned()).collect();
        let answer = Response::builder().header("grpc-status", "7").header("x-other", names.join(" "));
        Ok::<_, Infallible>(answer.body(request.into_body()).unwrap())
    });
    pass(far, "/umbra.admin.v1.Admin/Status", Body::new(http_body_util::Full::new(Bytes::from(body)))).await
}

#[tokio::test]
async fn the_message_goes_as_it_is_and_no_header_of_a_stranger_comes_back() {
    let answer = heard(b"abc".to_vec()).await.unwrap();
    assert_eq!(answer.headers().get("grpc-status").unwrap(), "7");
    assert!(answer.headers().get("x-other").is_none());
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), &b"abc"[..]);
    let most = RPC_MESSAGE_MAX + GRPC_PREFIX;
    assert!(heard(vec![0; most]).await.is_ok());
    assert_eq!(heard(vec![0; most + 1]).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
}

#[tokio::test]
async fn whoever_may_not_give_orders_and_whoever_is_one_too_many_is_refused() {
    let (_front, front) = watch::channel(Front::Joining);
    let ask = |relay: Relay| relay.hand_on(Request::post("/umbra.admin.v1.Admin/Status").body(Body::empty()).unwrap());
    let stranger = Relay::new(front.clone(), |_| false);
    assert_eq!(ask(stranger).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    let relay = Relay::new(front, |_| true);
    assert_eq!(ask(relay.clone()).await.unwrap_err().code(), tonic::Code::Unavailable);
    let places = Arc::clone(&relay.places);
    let _all = places.try_acquire_many_owned(u32::try_from(ADMIN_RELAYS_MAX).unwrap()).unwrap();
    assert_eq!(ask(relay).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
}
