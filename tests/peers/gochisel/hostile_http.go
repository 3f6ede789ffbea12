package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// httpModes misbehave before there is a WebSocket.
var httpModes = []hostileMode{
	{name: "silent-after-accept", stage: "http", expect: expectEnd, frozen: true,
		does: "accepts TCP, then neither reads nor writes"},
	{name: "silent-after-request", stage: "http", expect: expectEnd,
		does: "reads the upgrade request and never answers",
		http: func(_ *server, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	{name: "upgrade-200", stage: "http", expect: expectEnd, does: "answers the upgrade with 200 and a page",
		http: answerWith(http.StatusOK, "text/html", page("Welcome"))},
	{name: "upgrade-301", stage: "http", expect: expectEnd, does: "redirects to another host",
		http: func(_ *server, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.invalid/tunnel", http.StatusMovedPermanently)
		}},
	{name: "upgrade-403", stage: "http", expect: expectEnd, does: "forbids the upgrade",
		http: answerWith(http.StatusForbidden, "text/plain", "forbidden\n")},
	{name: "upgrade-404-html", stage: "http", expect: expectEnd, does: "answers with an ingress's 404 page",
		http: answerWith(http.StatusNotFound, "text/html", page("404 Not Found"))},
	{name: "upgrade-500", stage: "http", expect: expectEnd, does: "answers with 500",
		http: answerWith(http.StatusInternalServerError, "text/plain", "boom\n")},
	{name: "upgrade-503-later", stage: "http", expect: expectEnd, does: "answers with 503 and Retry-After",
		http: func(s *server, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "2")
			answerWith(http.StatusServiceUnavailable, "text/plain", "busy\n")(s, w, r)
		}},
	{name: "upgrade-endless-headers", stage: "http", expect: expectEnd, does: "answers with header lines without end",
		http: hijacked(func(s *server, out *bufio.Writer, _ *http.Request) error {
			_, err := out.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
			for i := 0; err == nil; i++ {
				_, err = fmt.Fprintf(out, "X-Filler-%d: %s\r\n", i, strings.Repeat("x", 1000))
			}
			return err
		})},
	{name: "upgrade-bad-accept", stage: "http", expect: expectEnd, does: "answers 101 with a wrong Sec-WebSocket-Accept",
		http: hijacked(func(_ *server, out *bufio.Writer, _ *http.Request) error {
			_, err := out.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
				"Sec-WebSocket-Accept: bm90IHRoZSBhbnN3ZXIgYXQgYWxs\r\n\r\n")
			return err
		})},
	{name: "wrong-subprotocol", stage: "http", expect: expectEnd, does: "answers 101 and chooses subprotocol chisel-v2",
		upgradeHeader: http.Header{"Sec-Websocket-Protocol": {"chisel-v2"}}},
}

func page(title string) string {
	return "<!DOCTYPE html><html><head><title>" + title + "</title></head><body><h1>" + title + "</h1></body></html>\n"
}

func answerWith(status int, kind, body string) func(*server, http.ResponseWriter, *http.Request) {
	return func(_ *server, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// hijacked takes the connection from net/http, lets write answer on it, and closes it when the client does.
func hijacked(write func(*server, *bufio.Writer, *http.Request) error) func(*server, http.ResponseWriter, *http.Request) {
	return func(s *server, w http.ResponseWriter, r *http.Request) {
		conn, both, err := w.(http.Hijacker).Hijack()
		if err != nil {
			s.journal.emit("error", facts{"stage": "hijack", "error": err.Error()})
			return
		}
		defer conn.Close()
		if err := write(s, both.Writer, r); err == nil && both.Flush() == nil {
			_, _ = io.Copy(io.Discard, conn)
		}
	}
}

// carrierModes misbehave on the WebSocket, before or instead of SSH.
var carrierModes = []hostileMode{
	{name: "silent-after-upgrade", stage: "carrier", expect: expectEnd,
		does: "upgrades and sends no SSH version; carrier pings are answered", carrier: onlyListen},
	{name: "drop-after-upgrade", stage: "carrier", expect: expectEnd, does: "upgrades and cuts the TCP connection",
		carrier: func(c *session) error { return c.carrier.ws.NetConn().Close() }},
	{name: "carrier-close-reason", stage: "carrier", expect: expectEnd, does: "closes the WebSocket with 1013 and a reason",
		carrier: func(c *session) error {
			message := websocket.FormatCloseMessage(websocket.CloseTryAgainLater, "maintenance\n\x1b[31mfake log line")
			if err := c.carrier.ws.WriteControl(websocket.CloseMessage, message, time.Now().Add(time.Second)); err != nil {
				return err
			}
			return onlyListen(c)
		}},
	{name: "garbage-after-upgrade", stage: "carrier", expect: expectEnd, does: "sends 64 KiB of random bytes as its SSH version",
		carrier: func(c *session) error {
			garbage := make([]byte, 64<<10)
			_, _ = rand.Read(garbage)
			if _, err := c.carrier.Write(garbage); err != nil {
				return err
			}
			return onlyListen(c)
		}},
	{name: "endless-banner", stage: "carrier", expect: expectEnd, does: "sends lines without end before its SSH version",
		carrier: func(c *session) error {
			line := []byte(strings.Repeat("a line before the version string\r\n", 100))
			for {
				if _, err := c.carrier.Write(line); err != nil {
					return err
				}
			}
		}},
	{name: "oversize-message", stage: "carrier", expect: expectEnd, does: "sends one WebSocket message of 64 MiB",
		carrier: func(c *session) error {
			w, err := c.carrier.ws.NextWriter(websocket.BinaryMessage)
			chunk := make([]byte, 64<<10)
			for i := 0; i < 1024 && err == nil; i++ {
				_, err = w.Write(chunk)
			}
			if err != nil {
				return err
			}
			if err := w.Close(); err != nil {
				return err
			}
			return onlyListen(c)
		}},
	{name: "oversize-frame", stage: "carrier", expect: expectEnd, does: "announces one WebSocket frame of 2^62 bytes",
		carrier: func(c *session) error {
			header := []byte{0x82, 127, 0x40, 0, 0, 0, 0, 0, 0, 0}
			if _, err := c.carrier.ws.NetConn().Write(append(header, make([]byte, 4096)...)); err != nil {
				return err
			}
			return onlyListen(c)
		}},
	{name: "masked-frame", stage: "carrier", expect: expectEnd, does: "masks a frame, which servers must not",
		carrier: func(c *session) error {
			if _, err := c.carrier.ws.NetConn().Write([]byte{0x82, 0x81, 1, 2, 3, 4, 'S' ^ 1}); err != nil {
				return err
			}
			return onlyListen(c)
		}},
	{name: "text-frames", stage: "carrier", expect: expectEnd, does: "speaks SSH in text messages",
		carrier: func(c *session) error {
			c.carrier.kind = websocket.TextMessage
			return c.run()
		}},
	{name: "carrier-ping-flood", stage: "carrier", expect: expectCarryOn,
		does: "behaves, and sends 20,000 WebSocket pings before its SSH version",
		carrier: func(c *session) error {
			for i := range 20000 {
				payload := fmt.Appendf(nil, "%d", i)
				if err := c.carrier.ws.WriteControl(websocket.PingMessage, payload, time.Now().Add(10*time.Second)); err != nil {
					return err
				}
			}
			return c.run()
		}},
	{name: "one-byte-messages", stage: "carrier", expect: expectCarryOn,
		does: "behaves, but sends each byte as a message of its own, after an empty one",
		carrier: func(c *session) error {
			c.carrier.split = true
			return c.run()
		}},
}

// onlyListen reads and drops what the client sends; the WebSocket's own pings and closes are answered.
func onlyListen(c *session) error {
	_, err := io.Copy(io.Discard, c.carrier)
	return err
}
