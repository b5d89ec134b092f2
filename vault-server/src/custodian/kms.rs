//! A key of AWS KMS as custodian.
//!
//! Asked on a thread with a runtime of its own, since a custodian is waited for without async, and within bounds: a start
//! must fail, not hang. What is wrapped is bound to the vault and the kind of key by the encryption context, which KMS
//! authenticates and writes to its own log. Credentials come from AWS's files or the machine's role, never from an
//! environment variable or from our settings. Refused: a ciphertext of another key than the settings name.

use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_smithy_http_client::Builder as HttpClient;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use vault_core::custody::{Custodian, DeviceError, KeyService, ServiceKey, Serviced};
use vault_core::error::Error;
use vault_core::secret::Secret32;

use super::KmsSettings;
use crate::settings::Problem;

/// Seconds to connect, TLS included: a region is a few tens of milliseconds away.
const CONNECT: Duration = Duration::from_secs(5);

/// Seconds for one try: AWS's own clients give some ten.
const TRY: Duration = Duration::from_secs(8);

/// Seconds for a question with all its tries.
const ANSWER: Duration = Duration::from_secs(20);

/// Tries of a question that failed for a reason that passes: throttled, unavailable, a connection cut.
const TRIES: u32 = 3;

/// The custodian; the service is not asked yet.
#[allow(clippy::unnecessary_wraps, reason = "a build without this client refuses in its place")]
pub(super) fn open(settings: &KmsSettings) -> Result<Box<dyn Custodian>, Problem> {
    Ok(Box::new(Serviced::new(Kms { settings: settings.clone() })))
}

struct Kms {
    settings: KmsSettings,
}

impl Kms {
    /// Asks on a thread of its own: who waits may be a worker of a runtime, which must not run another.
    fn ask<T: Send>(
        &self,
        question: impl AsyncFnOnce(Client) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let asked = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|_| Error::internal())?;
            let answer = runtime.block_on(async {
                let within = tokio::time::timeout(ANSWER, async { question(self.client().await).await });
                within.await.unwrap_or(Err(Error::Device(DeviceError::Silent)))
            });
            // A name that is still being looked up is not waited for.
            runtime.shutdown_background();
            answer
        };
        let asked = || {
            let answer = asked();
            crate::memory::scrub_stack();
            answer
        };
        std::thread::scope(|scope| scope.spawn(asked).join()).unwrap_or_else(|_| Err(Error::internal()))
    }

    async fn client(&self) -> Client {
        let http = HttpClient::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(TRY)
            .operation_timeout(ANSWER)
            .build();
        let region = Region::new(self.settings.region.clone());
        let found =
            ProviderConfig::without_region().with_region(Some(region.clone())).with_http_client(http.clone());
        let web = WebIdentityTokenCredentialsProvider::builder().configure(&found).build();
        let chain = CredentialsProviderChain::first_try(
            "Profile",
            ProfileFileCredentialsProvider::builder().configure(&found).build(),
        )
        .or_else("WebIdentityToken", web)
        .or_else("Container", EcsCredentialsProvider::builder().configure(&found).build())
        .or_else("Instance", ImdsCredentialsProvider::builder().configure(&found).build());
        let mut config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(region)
            .credentials_provider(chain)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES));
        if let Some(endpoint) = &self.settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Client::new(&config.load().await)
    }
}

impl KeyService for Kms {
    fn encrypt(&self, key: &Secret32, of: &ServiceKey) -> Result<(Vec<u8>, String), Error> {
        self.ask(async |client| {
            let asked = client
                .encrypt()
                .key_id(&self.settings.key)
                .encryption_context("vault", &of.vault)
                .encryption_context("kind", of.kind)
                .plaintext(Blob::new(key.expose_bytes().to_vec()));
            let answer = asked.send().await.map_err(|e| error(&e))?;
            let sealed = answer.ciphertext_blob.ok_or(Error::Device(DeviceError::Failing(0)))?;
            Ok((sealed.into_inner(), answer.key_id.unwrap_or_else(|| self.settings.key.clone())))
        })
    }

    fn decrypt(&self, sealed: &[u8], of: &ServiceKey) -> Result<Secret32, Error> {
        self.ask(async |client| {
            let asked = client
                .decrypt()
                .key_id(&self.settings.key)
                .key_id(&self.settings.key)
                .encryption_context("vault", &of.vault)
                .encryption_context("kind", of.kind)
                .ciphertext_blob(Blob::new(sealed));
            let answer = asked.send().await.map_err(|e| error(&e))?;
            let mut key = answer.plaintext.map(Blob::into_inner).unwrap_or_default();
            Secret32::take(&mut key).ok_or(Error::Custody)
        })
    }
}

/// What an answer that is none means for who asked.
fn error<E: ProvideErrorMetadata, R>(failed: &SdkError<E, R>) -> Error {
    match failed {
        SdkError::ServiceError(refused) => of_service(refused.err().code().unwrap_or_default()),
        SdkError::TimeoutError(_) => Error::Device(DeviceError::Silent),
        SdkError::DispatchFailure(away) => Error::Device(match away.as_connector_error() {
            Some(e) if e.is_timeout() => DeviceError::Silent,
            Some(e) if e.is_io() => DeviceError::Absent,
            // Before anything is sent, it is signed: nothing was found to sign with.
            _ => DeviceError::Forbidden,
        }),
        SdkError::ConstructionFailure(_) => Error::Device(DeviceError::Forbidden),
        _ => Error::Device(DeviceError::Failing(0)),
    }
}

/// By the code that the service gives (AWS KMS API reference, Encrypt, Decrypt, and common errors).
fn of_service(code: &str) -> Error {
    let why = match code {
        // Another context, another key, or damage: KMS does not tell them apart either.
        "InvalidCiphertextException" | "IncorrectKeyException" => return Error::Custody,
        "NotFoundException" => DeviceError::NoKey,
        "DisabledException" | "KMSInvalidStateException" => DeviceError::KeyOff,
        "InvalidKeyUsageException" => DeviceError::Unfit,
        "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "NotAuthorized"
        | "OptInRequired"
        | "ExpiredTokenException" => DeviceError::Forbidden,
        "DependencyTimeoutException" => DeviceError::Silent,
        _ => DeviceError::Failing(0),
    };
    Error::Device(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_answers_says_what_to_do() {
        let codes = [
            ("InvalidCiphertextException", Error::Custody),
            ("IncorrectKeyException", Error::Custody),
            ("NotFoundException", Error::Device(DeviceError::NoKey)),
            ("DisabledException", Error::Device(DeviceError::KeyOff)),
            ("KMSInvalidStateException", Error::Device(DeviceError::KeyOff)),
            ("AccessDeniedException", Error::Device(DeviceError::Forbidden)),
            ("KMSInternalException", Error::Device(DeviceError::Failing(0))),
            ("", Error::Device(DeviceError::Failing(0))),
        ];
        for (code, told) in codes {
            assert_eq!(of_service(code), told, "{code}");
        }
    }
}
