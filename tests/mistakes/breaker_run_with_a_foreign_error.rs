//! `Breaker::run` around a call whose error cannot hold a rejection.
//~ the error `std::io::Error` cannot hold a rejection of this crate
//~ wrap a foreign error innermost in the stack: `.map_err(buttress::Error::Inner)`

use buttress::breaker::Breaker;

async fn lookup() -> std::io::Result<String> {
    Ok(String::new())
}

pub async fn guarded(breaker: Breaker) {
    #[cfg(mistake)]
    let user = breaker.run(async || lookup().await).await;
    #[cfg(not(mistake))]
    let user = breaker
        .run(async || lookup().await.map_err(buttress::Error::Inner))
        .await;
    let _ = user;
}
