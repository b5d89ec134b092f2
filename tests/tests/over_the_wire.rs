//! The main job over mutual TLS: a card goes in, a token comes out, and only a permitted caller gets the card back.

use vault_client::{Zeroizing, ask};
use vault_core::store::Engine;
use vault_proto::v1::{Initiator, Purpose};
use vault_tests::server::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn a_card_goes_in_over_mutual_tls_and_only_the_gateway_gets_it_back() {
    for engine in [Engine::Redb, Engine::Sled] {
        let mut rig = Rig::new(engine);
        let header = || ask::header("acme", "web", Purpose::Authorization, Initiator::Cardholder);
        let card = || ask::card(Zeroizing::new(b"4111111111111111".to_vec()), None);
        let shop = rig.client("shop").await;
        let stored = shop.tokenize(header(), card()).await.unwrap_or_else(|e| panic!("{e}"));
        let gateway = rig.client("gateway").await;
        let paid =
            gateway.detokenize(header(), ask::plain(&stored.token)).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ask::pan(paid).unwrap().as_slice(), b"4111111111111111");
        let refused = shop.detokenize(header(), ask::plain(&stored.token)).await.unwrap_err();
        assert_eq!(refused.reason(), Some(vault_client::Reason::PermissionDenied));

        rig.kill();
        rig.start();
        let gateway = rig.client("gateway").await;
        let paid =
            gateway.detokenize(header(), ask::plain(&stored.token)).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ask::pan(paid).unwrap().as_slice(), b"4111111111111111");
        assert!(rig.stop());
    }
}
