//! Sends every line back.

use std::io;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A longer line ends the conversation.
const LINE_BYTES_MAX: u64 = 65_536;

/// Serves until the listener fails.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (visitor, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A visitor who leaves is no failure of the service.
            let _left = converse(visitor).await;
        });
    }
}

async fn converse(visitor: TcpStream) -> io::Result<()> {
    visitor.set_nodelay(true)?;
    let mut visitor = BufReader::new(visitor);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut visitor).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        visitor.get_mut().write_all(&line).await?;
    }
}
