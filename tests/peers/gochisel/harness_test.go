package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/crypto/ssh"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// record collects the events of one journal.
type record struct {
	t      *testing.T
	events chan facts
}

func newRecord(t *testing.T) (*record, *journal) {
	t.Helper()
	r, w := io.Pipe()
	rec := &record{t: t, events: make(chan facts, 100_000)}
	go func() {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var f facts
			if json.Unmarshal(lines.Bytes(), &f) == nil {
				rec.events <- f
			}
		}
	}()
	t.Cleanup(func() { w.Close() })
	return rec, newJournal(w)
}

// next drops events until one has this name and these facts.
func (r *record) next(event string, match facts) facts {
	r.t.Helper()
	expired := time.After(patience)
	for {
		select {
		case f := <-r.events:
			if f["event"] == event && contains(f, match) {
				return f
			}
		case <-expired:
			r.t.Fatalf("no event %q with %v within %s", event, match, patience)
		}
	}
}

func contains(f, match facts) bool {
	for k, v := range match {
		if f[k] != v {
			return false
		}
	}
	return true
}

// startServer serves on a free port until the test ends.
func startServer(t *testing.T, change func(*options)) (*record, string, string) {
	t.Helper()
	rec, j := newRecord(t)
	o := options{auth: "user:pass:word", seed: "1", configTimeout: 10 * time.Second, pingTimeout: time.Second}
	if change != nil {
		change(&o)
	}
	s, err := newServer(o, j)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.serve(listener) }()
	t.Cleanup(func() {
		listener.Close()
		s.gate.thaw()
		s.gate.drop(false)
	})
	first := rec.next("listening", nil)
	return rec, first["url"].(string), first["fingerprint"].(string)
}

func startServices(t *testing.T) (*record, map[string]string, []byte) {
	t.Helper()
	rec, j := newRecord(t)
	s := newServices("127.0.0.1", j)
	t.Cleanup(func() { close(s.done) })
	certificate, ca, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.start(certificate); err != nil {
		t.Fatal(err)
	}
	return rec, s.ports, ca
}

// tunnel starts a server, the services and a client that offers the named ones; it returns where each is reached.
func tunnel(t *testing.T, names []string, server func(*options), tweak func(*client)) map[string]string {
	t.Helper()
	rec, url, print := startServer(t, server)
	_, ports, _ := startServices(t)
	_, j := newRecord(t)
	c := &client{url: url, fingerprint: print, auth: "user:pass:word", journal: j}
	for _, name := range names {
		r, err := parseRemote("R:0:" + ports[name])
		if err != nil {
			t.Fatal(err)
		}
		c.remotes = append(c.remotes, r)
	}
	if tweak != nil {
		tweak(c)
	}
	go func() { _ = c.run() }()
	bound := map[string]string{}
	for i, b := range rec.next("configured", facts{"ok": true})["bound"].([]any) {
		bound[names[i]] = b.(map[string]any)["addr"].(string)
	}
	return bound
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// exchangeAll sends text, closes the sending half, and returns all that comes back.
func exchangeAll(t *testing.T, addr, text string) string {
	t.Helper()
	conn := dial(t, addr)
	fmt.Fprint(conn, text)
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// rawDial connects Go's SSH client with a configuration of the test's own.
func rawDial(t *testing.T, c *client, config ssh.Config) ssh.Conn {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{protocolName}}
	ws, _, err := dialer.Dial(c.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, opens, requests, err := ssh.NewClientConn(newStream(ws), "", &ssh.ClientConfig{
		Config: config, User: "user", Auth: []ssh.AuthMethod{ssh.Password("pass:word")},
		ClientVersion: clientVersion, HostKeyCallback: c.checkKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	go answerPings(requests)
	go func() {
		for open := range opens {
			_ = open.Reject(ssh.Prohibited, "none here")
		}
	}()
	return conn
}
