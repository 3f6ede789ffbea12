package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/crypto/ssh"
)

// client is the client side, as Go's chisel client behaves: it dials whatever the server names, confirms a channel
// before the dial has succeeded, and closes both directions at the first end of data.
type client struct {
	url, fingerprint, auth, ca string
	keepAlive                  time.Duration
	halfClose, skipVerify      bool
	remotes                    []remote
	journal                    *journal
	channels                   atomic.Int64
}

func runClient(args []string) error {
	c := &client{}
	var quiet bool
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	flags.StringVar(&c.url, "server", "", "ws:// or wss:// URL")
	flags.StringVar(&c.fingerprint, "fingerprint", "", "of the server's key; empty: any")
	flags.StringVar(&c.auth, "auth", "", "user:password")
	flags.StringVar(&c.ca, "tls-ca", "", "PEM file to verify the server with")
	flags.BoolVar(&c.skipVerify, "tls-skip-verify", false, "do not verify the server's certificate")
	flags.DurationVar(&c.keepAlive, "keepalive", 25*time.Second, "pings the server; 0: never")
	flags.BoolVar(&c.halfClose, "half-close", false, "passes an end of data on in its direction only")
	flags.BoolVar(&quiet, "quiet", false, "no events for single channels")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, text := range flags.Args() {
		r, err := parseRemote(text)
		if err != nil {
			return err
		}
		c.remotes = append(c.remotes, r)
	}
	var silent []string
	if quiet {
		silent = []string{"channel", "channel-closed"}
	}
	c.journal = newJournal(os.Stdout, silent...)
	ended := make(chan error, 1)
	go func() { ended <- c.run() }()
	input := make(chan struct{})
	go func() {
		follow(os.Stdin, c.journal, func(order) {})
		close(input)
	}()
	select {
	case err := <-ended:
		closed := facts{}
		if err != nil {
			closed["error"] = err.Error()
		}
		c.journal.emit("closed", closed)
		return err
	case <-input:
		return nil
	}
}

// run connects once and serves channels until the connection ends.
func (c *client) run() error {
	dialer := websocket.Dialer{Subprotocols: []string{protocolName}, HandshakeTimeout: 45 * time.Second}
	var err error
	if dialer.TLSClientConfig, err = c.tlsConfig(); err != nil {
		return err
	}
	ws, answer, err := dialer.Dial(c.url, http.Header{"User-Agent": {buildVersion}})
	if err != nil {
		if answer != nil {
			return fmt.Errorf("upgrade answered with %s: %w", answer.Status, err)
		}
		return fmt.Errorf("carrier: %w", err)
	}
	defer ws.Close()
	user, password, _ := strings.Cut(c.auth, ":")
	conn, opens, requests, err := ssh.NewClientConn(newStream(ws), "", &ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.Password(password)},
		ClientVersion:   clientVersion,
		HostKeyCallback: c.checkKey,
		Timeout:         30 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	defer conn.Close()
	c.journal.emit("connected", facts{"server": string(conn.ServerVersion())})
	payload, err := json.Marshal(settings{Version: buildVersion, Remotes: c.remotes})
	if err != nil {
		return err
	}
	ok, reason, err := conn.SendRequest("config", true, payload)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	c.journal.emit("configured", facts{"ok": ok && len(reason) == 0, "error": string(reason)})
	if !ok || len(reason) > 0 {
		return fmt.Errorf("configuration refused: %s", reason)
	}
	go answerPings(requests)
	go c.serve(opens)
	if c.keepAlive > 0 {
		go c.pings(conn)
	}
	return conn.Wait()
}

func (c *client) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: c.skipVerify}
	if c.ca == "" {
		return config, nil
	}
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, err
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", c.ca)
	}
	return config, nil
}

func (c *client) checkKey(_ string, _ net.Addr, key ssh.PublicKey) error {
	got := fingerprint(key)
	if c.fingerprint != "" && c.fingerprint != got {
		return fmt.Errorf("the server's key has fingerprint %s, expected %s", got, c.fingerprint)
	}
	return nil
}

func answerPings(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.Type == "ping" {
			_ = r.Reply(true, []byte("pong"))
		}
	}
}

func (c *client) pings(conn ssh.Conn) {
	for {
		time.Sleep(c.keepAlive)
		began := time.Now()
		_, payload, err := conn.SendRequest("ping", true, nil)
		if err != nil || (len(payload) > 0 && string(payload) != "pong") {
			_ = conn.Close()
			return
		}
		c.journal.emit("ping", facts{"payload": string(payload), "seconds": time.Since(began).Seconds()})
	}
}

func (c *client) serve(opens <-chan ssh.NewChannel) {
	for open := range opens {
		go c.connect(open)
	}
}

// connect confirms the channel first and dials then: a dial that fails shows as an immediate close.
func (c *client) connect(open ssh.NewChannel) {
	number, target := c.channels.Add(1), string(open.ExtraData())
	report := func(event string, f facts) {
		line := facts{"channel": number, "target": target}
		for k, v := range f {
			line[k] = v
		}
		c.journal.emit(event, line)
	}
	addr, err := dialable(target)
	if err != nil {
		_ = open.Reject(ssh.Prohibited, err.Error())
		report("channel", facts{"ok": false, "error": err.Error()})
		return
	}
	channel, requests, err := open.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		_ = channel.Close()
		report("channel", facts{"ok": false, "error": err.Error()})
		return
	}
	report("channel", facts{"ok": true})
	sent, received := relay(channel, conn, c.halfClose)
	report("channel-closed", facts{"sent": sent, "received": received})
}
