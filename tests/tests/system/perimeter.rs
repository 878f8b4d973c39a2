//! Does the whole path work: an organisation, two laptops, a gateway, and services behind it?

use crate::support::world;
use umbra_tests::lab::Name;
use umbra_tests::perimeter::{Perimeter, Plan, admin_json};

#[test]
fn a_gateway_joins_and_is_confirmed() {
    let world = world();
    let plan = Plan { laptops: Vec::new(), ..Plan::default() };
    let perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|e| panic!("{e}"));
    let gateways = admin_json(&world, &["gateway", "list"]).unwrap();
    assert!(gateways.to_string().contains("confirmed"), "{gateways}");
    assert!(perimeter.gateways.contains_key(&Name::Gateway));
}
