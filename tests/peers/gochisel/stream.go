package main

import (
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// stream joins the messages of a WebSocket into one stream of bytes: what one Write gets is one message, what Read
// returns need not end where a message ends. Text messages count like binary ones.
type stream struct {
	ws      *websocket.Conn
	kind    int       // of the messages that are written
	message io.Reader // what is left of the message that came last
	split   bool      // write each byte as a message of its own, with an empty message before it
}

func newStream(ws *websocket.Conn) *stream {
	return &stream{ws: ws, kind: websocket.BinaryMessage}
}

func (s *stream) Read(b []byte) (int, error) {
	for {
		if s.message == nil {
			_, r, err := s.ws.NextReader()
			if err != nil {
				return 0, err
			}
			s.message = r
		}
		n, err := s.message.Read(b)
		if err == io.EOF {
			s.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (s *stream) Write(b []byte) (int, error) {
	if !s.split {
		return len(b), s.ws.WriteMessage(s.kind, b)
	}
	for i := range b {
		if err := s.ws.WriteMessage(s.kind, nil); err != nil {
			return i, err
		}
		if err := s.ws.WriteMessage(s.kind, b[i:i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func (s *stream) Close() error                       { return s.ws.Close() }
func (s *stream) LocalAddr() net.Addr                { return s.ws.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr               { return s.ws.RemoteAddr() }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.ws.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.ws.SetWriteDeadline(t) }

func (s *stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// gate is what all connections of a listener go through: while it is frozen none of them reads or writes a byte, as
// if the host had been unplugged; dropping resets them all.
type gate struct {
	mu    sync.Mutex
	thawn *sync.Cond
	ice   bool
	conns map[*gatedConn]bool
}

func newGate() *gate {
	g := &gate{conns: map[*gatedConn]bool{}}
	g.thawn = sync.NewCond(&g.mu)
	return g
}

// freeze stops all traffic until thaw.
func (g *gate) freeze() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ice = true
}

func (g *gate) thaw() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ice = false
	g.thawn.Broadcast()
}

// drop closes every connection, with RST in place of FIN where reset is set, and returns how many there were.
func (g *gate) drop(reset bool) int {
	g.mu.Lock()
	conns := make([]*gatedConn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		if tcp, ok := c.Conn.(*net.TCPConn); ok && reset {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	return len(conns)
}

// pass waits while the gate is frozen, unless the connection is closed.
func (g *gate) pass(c *gatedConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.ice && g.conns[c] {
		g.thawn.Wait()
	}
}

// gatedListener puts what it accepts behind its gate.
type gatedListener struct {
	net.Listener
	gate *gate
}

func (l gatedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &gatedConn{Conn: conn, gate: l.gate}
	l.gate.mu.Lock()
	defer l.gate.mu.Unlock()
	l.gate.conns[c] = true
	return c, nil
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c *gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.gate.pass(c) // what came in while the gate was frozen counts as not yet arrived
	return n, err
}

func (c *gatedConn) Write(b []byte) (int, error) {
	c.gate.pass(c)
	return c.Conn.Write(b)
}

func (c *gatedConn) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.conns, c)
	c.gate.thawn.Broadcast()
	c.gate.mu.Unlock()
	return c.Conn.Close()
}
