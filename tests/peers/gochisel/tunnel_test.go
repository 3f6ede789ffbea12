package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestServicesThroughTheTunnel(t *testing.T) {
	at := tunnel(t, []string{"http", "database", "load", "mute"}, nil, nil)
	t.Run("http", func(t *testing.T) {
		var connections []string
		for range 2 {
			answer, err := http.Get("http://" + at["http"] + "/x")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			connections = append(connections, answer.Header.Get("X-Connection"))
			if got := string(body); got != "hello from behind the tunnel: GET /x\n" {
				t.Errorf("got %q", got)
			}
		}
		if connections[0] != connections[1] {
			t.Errorf("no keep-alive: %v", connections)
		}
	})
	t.Run("upgrade", func(t *testing.T) {
		conn := dial(t, at["http"])
		fmt.Fprint(conn, "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly")
		in := bufio.NewReader(conn)
		answer, err := http.ReadResponse(in, nil)
		if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(answer, err)
		}
		fmt.Fprint(conn, "late")
		back := make([]byte, 9)
		if _, err := io.ReadFull(in, back); err != nil || string(back) != "earlylate" {
			t.Errorf("got %q, %v", back, err)
		}
	})
	t.Run("database", func(t *testing.T) {
		conn := dial(t, at["database"])
		in := bufio.NewReader(conn)
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "220 ") {
			t.Fatalf("no greeting: %q, %v", line, err)
		}
		fmt.Fprint(conn, "select 1\r\nquit\r\n")
		rest, err := io.ReadAll(in)
		if lines := strings.Split(string(rest), "\r\n"); err != nil || len(lines) != 3 || lines[1] != "221 bye" {
			t.Errorf("got %q, %v", rest, err)
		}
	})
	for _, mode := range []string{"down", "up", "both", "rtt", "conn"} {
		t.Run("load "+mode, func(t *testing.T) {
			l := load{mode: mode, addrs: []string{at["load"]}, count: 20, conns: 3, size: 64, check: true}
			run := l.throughput
			switch mode {
			case "rtt":
				run = l.roundTrips
			case "conn":
				run = l.connections
			default:
				l.count = 3 << 20
			}
			if err := run(facts{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadNoticesDamage(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go each(func(c *net.TCPConn) {
		_, _ = io.CopyN(io.Discard, c, headerSize)
		_, _ = c.Write(make([]byte, 1000+32)) // 1,000 bytes and a sum that is not theirs
	})(l)
	run := load{mode: "down", addrs: []string{l.Addr().String()}, count: 1000, conns: 1, check: true}
	if err := run.throughput(facts{}); err != errSum {
		t.Errorf("got %v", err)
	}
}

func TestHalfClose(t *testing.T) {
	at := tunnel(t, []string{"halfclose"}, func(o *options) { o.halfClose = true }, func(c *client) { c.halfClose = true })
	want := "5 bytes sha256 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\n"
	if got := exchangeAll(t, at["halfclose"], "hello"); got != want {
		t.Errorf("got %q", got)
	}
	at = tunnel(t, []string{"halfclose"}, nil, nil)
	if got := exchangeAll(t, at["halfclose"], "hello"); got != "" {
		t.Errorf("chisel's way closes both directions, got %q", got)
	}
}

func TestUnreachableTargetClosesTheConnection(t *testing.T) {
	at := tunnel(t, []string{"refuse"}, nil, nil)
	if n, err := dial(t, at["refuse"]).Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

func TestStuckServiceNeitherAcceptsNorRefuses(t *testing.T) {
	_, ports, _ := startServices(t)
	conn, err := net.DialTimeout("tcp", ports["stuck"], 300*time.Millisecond)
	if err == nil {
		conn.Close()
		t.Fatal("connected")
	}
	if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
		t.Errorf("got %v, expected silence", err)
	}
}

func TestServiceOverTLS(t *testing.T) {
	_, ports, ca := startServices(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	conn, err := tls.Dial("tcp", ports["tls"], &tls.Config{RootCAs: pool, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestClientIsToldWhy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	_, url, print := startServer(t, nil)
	other, err := hostKey("")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ auth, print, remote, want string }{
		"taken port":     {"user:pass:word", print, "R:" + port + ":127.0.0.1:9", "Server cannot listen on R:" + port},
		"wrong password": {"user:no", print, "R:0:127.0.0.1:9", "unable to authenticate"},
		"wrong key":      {"user:pass:word", fingerprint(other.PublicKey()), "R:0:127.0.0.1:9", "has fingerprint " + print},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parseRemote(c.remote)
			if err != nil {
				t.Fatal(err)
			}
			_, j := newRecord(t)
			err = (&client{url: url, auth: c.auth, fingerprint: c.print, remotes: []remote{r}, journal: j}).run()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPlainHTTP(t *testing.T) {
	_, url, _ := startServer(t, nil)
	for path, want := range map[string]string{"/health": "200 OK\n", "/version": "200 " + buildVersion, "/": "404 Not found"} {
		answer, err := http.Get("http" + strings.TrimPrefix(url, "ws") + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if got := fmt.Sprintf("%d %s", answer.StatusCode, body); got != want {
			t.Errorf("%s: got %q", path, got)
		}
	}
}

func TestParseRemote(t *testing.T) {
	for text, want := range map[string]string{
		"R:8000":                       "R:8000=>8000",
		"R:8000:localhost:6443":        "R:8000=>localhost:6443",
		"R:127.0.0.1:8000:[::1]:6443":  "R:127.0.0.1:8000=>[::1]:6443",
		"8000":                         "",
		"R:8000:localhost":             "",
		"R:8000:localhost:65536":       "",
		"R:8000:[::1:6443":             "",
		"R:127.0.0.1:8000:[::1]:6443:": "",
	} {
		r, err := parseRemote(text)
		if got := r.String(); (err == nil) != (want != "") || (err == nil && got != want) {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
}
