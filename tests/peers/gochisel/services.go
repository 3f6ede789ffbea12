package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// services are the TCP services that a user has behind a tunnel, each on a port of its own.
type services struct {
	host    string
	buffer  int // as for load
	journal *journal
	ports   map[string]string // name: address
	done    chan struct{}     // closed when all are to end
}

func newServices(host string, j *journal) *services {
	return &services{host: host, journal: j, ports: map[string]string{}, done: make(chan struct{})}
}

func runServices(args []string) error {
	var host string
	var buffer int
	flags := flag.NewFlagSet("services", flag.ExitOnError)
	flags.StringVar(&host, "listen", "127.0.0.1", "address; each service gets a free port")
	flags.IntVar(&buffer, "buffer", 0, "load: the kernel's buffers for each connection, in bytes; 0: its own choice")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s := newServices(host, newJournal(os.Stdout))
	s.buffer = buffer
	certificate, ca, err := selfSigned()
	if err != nil {
		return err
	}
	if err := s.start(certificate); err != nil {
		return err
	}
	s.journal.emit("listening", facts{"services": s.ports, "ca": string(ca)})
	follow(os.Stdin, s.journal, func(order) {})
	return nil
}

func (s *services) start(certificate tls.Certificate) error {
	web := http.NewServeMux()
	web.HandleFunc("/", hello)
	web.HandleFunc("/bytes/{count}", manyBytes)
	web.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	web.HandleFunc("/upgrade", upgradeToEcho)
	quiet := log.New(io.Discard, "", 0)
	site := &http.Server{Handler: web, ReadHeaderTimeout: time.Minute, ErrorLog: quiet}
	for name, serve := range map[string]func(net.Listener){
		"http": func(l net.Listener) { _ = site.Serve(l) },
		"tls": func(l net.Listener) {
			_ = site.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}))
		},
		"echo":       each(func(c *net.TCPConn) { _, _ = io.Copy(c, c) }),
		"database":   each(database),
		"halfclose":  each(answerAtEOF),
		"closefirst": each(s.closeFirst),
		"mute":       each(func(*net.TCPConn) { <-s.done }),
		"reset":      each(func(c *net.TCPConn) { _ = c.SetLinger(0) }),
		"load":       each(s.load),
	} {
		l, err := net.Listen("tcp", net.JoinHostPort(s.host, "0"))
		if err != nil {
			return err
		}
		s.ports[name] = l.Addr().String()
		go serve(l)
	}
	var err error
	if s.ports["refuse"], err = bindOnly(s.host); err != nil {
		return err
	}
	s.ports["stuck"], err = neverAccepting(s.host)
	return err
}

// each serves every connection of a listener on its own and closes it afterwards.
func each(serve func(*net.TCPConn)) func(net.Listener) {
	return func(l net.Listener) {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			}()
		}
	}
}

// hello tells which connection a request came on, so that a test can see keep-alive at work.
func hello(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Connection", r.RemoteAddr)
	fmt.Fprintf(w, "hello from behind the tunnel: %s %s\n", r.Method, r.URL.Path)
}

func manyBytes(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.ParseInt(r.PathValue("count"), 10, 64)
	if err != nil || count < 0 {
		http.Error(w, "expected /bytes/COUNT", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(count, 10))
	_, _ = io.CopyN(w, newNoise(1), count)
}

// upgradeToEcho switches to a protocol named echo, as WebSocket or kubectl exec do to theirs.
func upgradeToEcho(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "echo") {
		w.Header().Set("Upgrade", "echo")
		http.Error(w, "upgrade to echo", http.StatusUpgradeRequired)
		return
	}
	conn, both, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(both, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	for both.Flush() == nil {
		chunk := make([]byte, 32<<10)
		n, err := both.Read(chunk)
		if err != nil {
			return
		}
		_, _ = both.Write(chunk[:n])
	}
}

// database greets before the client has said a word, then answers each line, as mail and many databases do.
func database(c *net.TCPConn) {
	fmt.Fprint(c, "220 gochisel database ready\r\n")
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		if strings.EqualFold(lines.Text(), "quit") {
			fmt.Fprint(c, "221 bye\r\n")
			return
		}
		digest := sha256.Sum256(lines.Bytes())
		if _, err := fmt.Fprintf(c, "250 %s\r\n", hex.EncodeToString(digest[:])); err != nil {
			return
		}
	}
}

// answerAtEOF reads until the other side has closed its half, and only then answers.
func answerAtEOF(c *net.TCPConn) {
	digest := sha256.New()
	n, err := io.Copy(digest, c)
	if err == nil {
		fmt.Fprintf(c, "%d bytes sha256 %x\n", n, digest.Sum(nil))
	}
}

func (s *services) load(c *net.TCPConn) {
	if hold(c, s.buffer) == nil {
		serveLoad(c)
	}
}

// closeFirst closes its own half at once and goes on reading; what came in is reported as an event.
func (s *services) closeFirst(c *net.TCPConn) {
	fmt.Fprint(c, "bye\n")
	_ = c.CloseWrite()
	digest := sha256.New()
	n, err := io.Copy(digest, c)
	s.journal.emit("closefirst", facts{"bytes": n, "sha256": hex.EncodeToString(digest.Sum(nil)), "ok": err == nil})
}

// socket binds a TCP socket to a free port, without listening.
func socket(host string) (int, string, error) {
	ip := net.ParseIP(host).To4()
	if ip == nil {
		return 0, "", fmt.Errorf("%q is not an IPv4 address", host)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, "", err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte(ip)}); err != nil {
		return 0, "", err
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, "", err
	}
	return fd, net.JoinHostPort(host, strconv.Itoa(name.(*syscall.SockaddrInet4).Port)), nil
}

// bindOnly holds a port on which nobody listens: connections are refused, and nobody else can take it.
func bindOnly(host string) (string, error) {
	_, addr, err := socket(host)
	return addr, err
}

// neverAccepting listens with a queue that is already full: connections are neither accepted nor refused.
func neverAccepting(host string) (string, error) {
	fd, addr, err := socket(host)
	if err != nil {
		return "", err
	}
	if err := syscall.Listen(fd, 0); err != nil {
		return "", err
	}
	for range 16 {
		// What gets through stays in the queue, as nobody takes it out.
		if _, err := net.DialTimeout("tcp", addr, 100*time.Millisecond); err != nil {
			return addr, nil
		}
	}
	return "", fmt.Errorf("the queue of %s does not fill", addr)
}

// noise is an endless stream of bytes that do not repeat soon: a block of random bytes with a counter in it.
type noise struct {
	block   []byte
	counter uint64
	rest    *bytes.Reader
}

func (n *noise) Read(b []byte) (int, error) {
	if n.rest.Len() == 0 {
		n.counter++
		for i := range 8 {
			n.block[i] = byte(n.counter >> (8 * i))
		}
		n.rest.Reset(n.block)
	}
	return n.rest.Read(b)
}
