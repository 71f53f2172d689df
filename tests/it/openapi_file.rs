//! The checked-in OpenAPI document is the one that the code describes.

#[tokio::test]
async fn the_checked_in_document_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/v1.json");
    let checked_in = std::fs::read_to_string(path).expect("openapi/v1.json");
    let mut described = serde_json::to_string_pretty(&freehold::app::openapi()).unwrap();
    described.push('\n');
    assert!(
        checked_in == described,
        "openapi/v1.json is not what the code says; bring it up to date with: make openapi"
    );
}
