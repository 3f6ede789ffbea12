module gochisel

go 1.24.0

require (
	github.com/gorilla/websocket v1.5.3
	golang.org/x/crypto v0.48.0
	golang.org/x/sys v0.41.0
)
