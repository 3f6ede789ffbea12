package main

import (
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/crypto/ssh"
)

// options are the flags of the server.
type options struct {
	listen, auth, seed, tlsCert, tlsKey, hostile string
	rekeyBytes                                   uint64
	pingInterval, pingTimeout, configTimeout     time.Duration
	halfClose, quiet, tls                        bool
}

// server is the server side of chisel-v3: HTTP, and on each upgraded connection one session.
type server struct {
	options
	mode        hostileMode // the zero value behaves
	user, pass  string
	journal     *journal
	gate        *gate
	key         ssh.Signer // the one whose fingerprint is announced
	certificate []tls.Certificate
	ca          []byte
	sessions    atomic.Int64
	live        sessionSet
	upgrader    websocket.Upgrader
}

func runServer(args []string) error {
	var o options
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0", "address and port")
	flags.StringVar(&o.auth, "auth", "", "user:password; without it everybody may log in")
	flags.StringVar(&o.seed, "key-seed", "", "makes the host key always the same")
	flags.StringVar(&o.tlsCert, "tls-cert", "", "PEM certificate; serves wss")
	flags.StringVar(&o.tlsKey, "tls-key", "", "PEM key of the certificate")
	flags.BoolVar(&o.tls, "tls", false, "serves wss with a certificate made on the spot; its CA is in the first event")
	flags.StringVar(&o.hostile, "hostile", "", "misbehaves: one of the names that `gochisel modes` lists")
	flags.Uint64Var(&o.rekeyBytes, "rekey-bytes", 0, "exchanges keys again after so many bytes (256 at least; 0: 1 GiB, the cipher's limit)")
	flags.DurationVar(&o.pingInterval, "ping-interval", 25*time.Second, "asks the client for a sign of life; 0: never")
	flags.DurationVar(&o.pingTimeout, "ping-timeout", 10*time.Second, "ends the session when no answer came by then")
	flags.DurationVar(&o.configTimeout, "config-timeout", 10*time.Second, "waits so long for the configuration")
	flags.BoolVar(&o.halfClose, "half-close", false, "passes an end of data on in its direction only; else both are closed, as chisel does")
	flags.BoolVar(&o.quiet, "quiet", false, "no events for single channels and pings")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var silent []string
	if o.quiet {
		silent = []string{"channel", "channel-closed", "ping", "global-request"}
	}
	s, err := newServer(o, newJournal(os.Stdout, silent...))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	go func() {
		if err := s.serve(listener); err != nil {
			s.journal.emit("error", facts{"stage": "listen", "error": err.Error()})
		}
	}()
	follow(os.Stdin, s.journal, s.obey)
	_ = listener.Close()
	s.gate.drop(false)
	return nil
}

func newServer(o options, j *journal) (*server, error) {
	s := &server{options: o, journal: j, gate: newGate()}
	// chisel names no subprotocol in its answer; a client that insists on one could never talk to it.
	s.upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	s.user, s.pass, _ = strings.Cut(o.auth, ":")
	var err error
	if s.key, err = hostKey(o.seed); err != nil {
		return nil, err
	}
	if o.hostile != "" {
		if s.mode, err = findMode(o.hostile); err != nil {
			return nil, err
		}
	}
	switch {
	case o.tlsCert != "" || o.tlsKey != "":
		certificate, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
		if err != nil {
			return nil, err
		}
		s.certificate = []tls.Certificate{certificate}
	case o.tls:
		certificate, ca, err := selfSigned()
		if err != nil {
			return nil, err
		}
		s.certificate, s.ca = []tls.Certificate{certificate}, ca
	}
	return s, nil
}

// serve announces the listener and answers on it until it is closed.
func (s *server) serve(listener net.Listener) error {
	scheme := "ws"
	wrapped := net.Listener(gatedListener{listener, s.gate})
	if s.certificate != nil {
		scheme = "wss"
		wrapped = tls.NewListener(wrapped, &tls.Config{Certificates: s.certificate, NextProtos: []string{"http/1.1"}})
	}
	addr := listener.Addr().String()
	s.journal.emit("listening", facts{
		"addr": addr, "url": scheme + "://" + addr, "fingerprint": fingerprint(s.key.PublicKey()), "ca": string(s.ca),
		"hostile": s.hostile,
	})
	if s.mode.frozen {
		s.journal.emit("hostile", facts{"mode": s.mode.name, "step": "frozen"})
		s.gate.freeze()
	}
	web := &http.Server{Handler: s, ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(complaints{s.journal}, "", 0)}
	if err := web.Serve(wrapped); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// complaints makes events of what net/http has to say, such as failed TLS handshakes.
type complaints struct{ journal *journal }

func (c complaints) Write(line []byte) (int, error) {
	c.journal.emit("error", facts{"stage": "http", "error": strings.TrimSpace(string(line))})
	return len(line), nil
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && r.Header.Get("Sec-WebSocket-Protocol") == protocolName {
		s.journal.emit("http-request", facts{"path": r.URL.RequestURI(), "host": r.Host, "user_agent": r.UserAgent()})
		if s.mode.http != nil {
			s.journal.emit("hostile", facts{"mode": s.mode.name, "step": "answer"})
			s.mode.http(s, w, r)
			return
		}
		s.upgrade(w, r)
		return
	}
	switch r.URL.Path {
	case "/health":
		fmt.Fprint(w, "OK\n")
	case "/version":
		fmt.Fprint(w, buildVersion)
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "Not found")
	}
}

// upgrade makes a session of the request, or what the hostile mode has instead.
func (s *server) upgrade(w http.ResponseWriter, r *http.Request) {
	ws, err := s.upgrader.Upgrade(w, r, s.mode.upgradeHeader)
	if err != nil {
		s.journal.emit("error", facts{"stage": "upgrade", "error": err.Error()})
		return
	}
	c := &session{server: s, id: s.sessions.Add(1), carrier: newStream(ws)}
	defer c.carrier.Close()
	s.journal.emit("upgraded", facts{"session": c.id, "path": r.URL.RequestURI()})
	if s.mode.name != "" {
		c.hostile("begin", nil)
	}
	switch {
	case s.mode.carrier != nil:
		err = s.mode.carrier(c)
	case s.mode.raw != nil:
		err = c.runRaw()
	default:
		err = c.run()
	}
	closed := facts{"session": c.id}
	if err != nil {
		closed["error"] = err.Error()
	}
	s.journal.emit("closed", closed)
}

// password checks credentials; without -auth all are good.
func (s *server) password(user string, password []byte) bool {
	if s.auth == "" {
		return true
	}
	same := subtle.ConstantTimeCompare([]byte(user), []byte(s.user))
	return same&subtle.ConstantTimeCompare(password, []byte(s.pass)) == 1
}

// obey carries out an order from standard input:
// drop resets all connections; freeze and thaw stop and resume all traffic, as if the host were unplugged;
// open opens a channel of Type with the extra data Data in every session; request sends a global request.
func (s *server) obey(o order) {
	switch o.Do {
	case "drop":
		s.journal.emit("dropped", facts{"connections": s.gate.drop(true)})
	case "freeze":
		s.gate.freeze()
		s.journal.emit("frozen", nil)
	case "thaw":
		s.gate.thaw()
		s.journal.emit("thawn", nil)
	case "open":
		s.live.each(func(c *session) { go c.probe(o.Type, []byte(o.Data)) })
	case "request":
		s.live.each(func(c *session) { go c.ask(o.Type, o.WantReply, []byte(o.Data)) })
	default:
		s.journal.emit("error", facts{"stage": "order", "error": "unknown order " + o.Do})
	}
}
