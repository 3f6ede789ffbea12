package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The load service and its client. A connection begins with a header: what to do (D, U, B, C or E), whether bytes are
// checked, and how many there are in each direction. Whoever sends them adds their SHA-256 where they are checked;
// at the end of what it receives the server says by one byte whether the sum was right. E is an echo; C counts what
// arrives in some time (steady.go).

const headerSize = 10

var errSum = errors.New("the SHA-256 of what arrived is not that of what was sent")

func loadHeader(mode byte, check bool, count int64) []byte {
	h := []byte{mode, 0}
	if check {
		h[1] = 1
	}
	return binary.BigEndian.AppendUint64(h, uint64(count))
}

func newNoise(seed uint64) *noise {
	block := make([]byte, 64<<10)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range block {
		block[i] = byte(random.Uint32())
	}
	return &noise{block: block, rest: bytes.NewReader(nil)}
}

// push sends count bytes and, where they are checked, their sum.
func push(w io.Writer, count int64, check bool) error {
	buffer := make([]byte, 256<<10)
	var digest hash.Hash
	source := io.Reader(newNoise(uint64(count)))
	if check {
		digest = sha256.New()
		source = io.TeeReader(source, digest)
	}
	// Without a check the same bytes go out again and again: the load itself is not to be what is measured.
	for filled := false; count > 0; {
		n := min(count, int64(len(buffer)))
		if check || !filled {
			if _, err := io.ReadFull(source, buffer[:n]); err != nil {
				return err
			}
			filled = true
		}
		if _, err := w.Write(buffer[:n]); err != nil {
			return err
		}
		count -= n
	}
	if !check {
		return nil
	}
	_, err := w.Write(digest.Sum(nil))
	return err
}

// pull receives what push sends and compares the sum.
func pull(r io.Reader, count int64, check bool) error {
	if !check {
		_, err := io.CopyN(io.Discard, r, count)
		return err
	}
	digest := sha256.New()
	if _, err := io.CopyN(digest, r, count); err != nil {
		return err
	}
	sum := make([]byte, sha256.Size)
	if _, err := io.ReadFull(r, sum); err != nil {
		return err
	}
	if !bytes.Equal(sum, digest.Sum(nil)) {
		return errSum
	}
	return nil
}

func serveLoad(c *net.TCPConn) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(c, header); err != nil {
		return
	}
	check, count := header[1] == 1, int64(binary.BigEndian.Uint64(header[2:]))
	switch header[0] {
	case 'D':
		_ = push(c, count, check)
	case 'U':
		takeIn(c, count, check)
	case 'B':
		sent := make(chan error, 1)
		go func() { sent <- push(c, count, check) }()
		err := pull(c, count, check)
		if <-sent == nil {
			verdict(c, err)
		}
	case 'C':
		serveCount(c, time.Duration(count))
		return
	case 'E':
		_, _ = io.Copy(c, c)
		return
	}
	_, _ = io.ReadFull(c, header[:1]) // the client closes first
}

func takeIn(c io.ReadWriter, count int64, check bool) {
	verdict(c, pull(c, count, check))
}

func verdict(w io.Writer, err error) {
	good := []byte{1}
	if err != nil {
		good[0] = 0
	}
	_, _ = w.Write(good)
}

// load is one measurement; addresses are taken in turn.
type load struct {
	mode         string
	addrs        []string
	count        int64
	conns, size  int
	check        bool
	probe        bool          // steady: round trips beside it
	use          int64         // idle: bytes that each connection carries first
	warm, window time.Duration // steady: before counting, and while counting
	hold, expire time.Duration
	buffer       int // of the kernel, for each connection and direction, in bytes; 0: its own choice
}

func runLoad(args []string) error {
	var l load
	var addrs string
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	flags.StringVar(&l.mode, "m", "down", "down|up|both: throughput; steady-down|steady-up: rates of connections; rtt: round trips; conn: connections; idle: open and wait")
	flags.StringVar(&addrs, "a", "", "addresses of the load service, through whatever is measured, with commas between")
	flags.Int64Var(&l.count, "n", 100<<20, "bytes in each direction in all, round trips, or connections")
	flags.IntVar(&l.conns, "c", 1, "connections at a time")
	flags.IntVar(&l.size, "s", 64, "bytes of a message (rtt, conn, idle, probe)")
	flags.BoolVar(&l.check, "check", true, "compare SHA-256 of what is sent and received")
	flags.BoolVar(&l.probe, "probe", false, "steady: measure round trips on one more connection meanwhile")
	flags.Int64Var(&l.use, "use", 0, "idle: bytes that each connection carries in each direction first")
	flags.DurationVar(&l.warm, "warm", time.Second, "steady: time before counting")
	flags.DurationVar(&l.window, "for", 5*time.Second, "steady: time in which is counted")
	flags.IntVar(&l.buffer, "buffer", 0, "the kernel's buffers for each connection, in bytes; 0: its own choice")
	flags.DurationVar(&l.hold, "hold", 0, "idle: how long; 0: until standard input ends")
	flags.DurationVar(&l.expire, "timeout", 5*time.Minute, "gives up after that")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l.addrs = strings.Split(addrs, ",")
	run := map[string]func(facts) error{
		"down": l.throughput, "up": l.throughput, "both": l.throughput, "steady-down": l.steadyDown, "steady-up": l.steadyUp,
		"rtt": l.roundTrips, "conn": l.connections, "idle": l.idle,
	}[l.mode]
	if run == nil || l.conns < 1 || l.count < 1 {
		return fmt.Errorf("nothing to do for -m %s -n %d -c %d", l.mode, l.count, l.conns)
	}
	time.AfterFunc(l.expire, func() {
		fmt.Fprintln(os.Stderr, "gochisel load: not done within", l.expire)
		os.Exit(3)
	})
	result := facts{"mode": l.mode, "conns": l.conns, "checked": l.check, "ok": true}
	began := time.Now()
	err := run(result)
	result["seconds"] = time.Since(began).Seconds()
	if err != nil {
		result["ok"], result["error"] = false, err.Error()
	}
	if encoding := json.NewEncoder(os.Stdout).Encode(result); encoding != nil {
		return encoding
	}
	return err
}

// connect makes a connection to the n-th address.
func (l *load) connect(n int) (net.Conn, error) {
	conn, err := net.Dial("tcp", l.addrs[n%len(l.addrs)])
	if err != nil {
		return nil, err
	}
	if err := hold(conn.(*net.TCPConn), l.buffer); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// hold keeps the kernel's buffers of a connection at so many bytes each; 0: it chooses, and may take megabytes, of which
// a thousand connections can't all have as much (tcp_mem): then it drops what comes, and all of them crawl.
func hold(c *net.TCPConn, buffer int) error {
	if buffer == 0 {
		return nil
	}
	return errors.Join(c.SetReadBuffer(buffer), c.SetWriteBuffer(buffer))
}

// dial connects to the n-th address and begins with a header.
func (l *load) dial(n int, mode byte, count int64) (net.Conn, error) {
	conn, err := l.connect(n)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(loadHeader(mode, l.check, count)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// atOnce runs do for 0…l.conns-1 at the same time and returns the first error.
func (l *load) atOnce(do func(n int) error) error {
	errs := make(chan error, l.conns)
	for n := range l.conns {
		go func() { errs <- do(n) }()
	}
	var first error
	for range l.conns {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (l *load) throughput(result facts) error {
	share := max(l.count/int64(l.conns), 1)
	began := time.Now()
	err := l.atOnce(func(n int) error { return l.transfer(n, share) })
	result["bytes"] = share * int64(l.conns)
	result["mb_per_s"] = float64(share*int64(l.conns)) / 1e6 / time.Since(began).Seconds()
	return err
}

func (l *load) transfer(n int, count int64) error {
	conn, err := l.dial(n, map[string]byte{"down": 'D', "up": 'U', "both": 'B'}[l.mode], count)
	if err != nil {
		return err
	}
	defer conn.Close()
	if l.mode == "down" {
		return pull(conn, count, l.check)
	}
	received := make(chan error, 1)
	in := bufio.NewReaderSize(conn, 256<<10)
	go func() {
		if l.mode == "both" {
			received <- pull(in, count, l.check)
			return
		}
		received <- nil
	}()
	if err := push(conn, count, l.check); err != nil {
		return err
	}
	if err := <-received; err != nil {
		return err
	}
	good, err := in.ReadByte()
	if err == nil && good != 1 {
		err = errSum
	}
	return err
}

// echo sends one message and waits until it is back.
func echo(conn net.Conn, message, back []byte) error {
	if _, err := conn.Write(message); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if !bytes.Equal(message, back) {
		return errors.New("the echo is not what was sent")
	}
	return nil
}

func (l *load) message() (message, back []byte) {
	message = make([]byte, l.size)
	_, _ = io.ReadFull(newNoise(7), message)
	return message, make([]byte, l.size)
}

func (l *load) roundTrips(result facts) error {
	conn, err := l.dial(0, 'E', 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	took, err := l.echoes(conn, func(done int) bool { return int64(done) < l.count })
	report(result, took)
	return err
}

// echoes sends one message after the other, each when the one before is back, and returns how many microseconds each
// took; more is asked with how many are done.
func (l *load) echoes(conn net.Conn, more func(done int) bool) ([]float64, error) {
	message, back := l.message()
	var took []float64
	for more(len(took)) {
		began := time.Now()
		if err := echo(conn, message, back); err != nil {
			return took, err
		}
		took = append(took, float64(time.Since(began).Nanoseconds())/1e3)
	}
	return took, nil
}

// report sorts what round trips took into the result.
func report(result facts, took []float64) {
	result["count"] = len(took)
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	for name, percent := range map[string]int{"p50_us": 50, "p90_us": 90, "p99_us": 99} {
		result[name] = share(took, percent)
	}
}

// connections measures short ones: connect, one echo, close.
func (l *load) connections(result facts) error {
	var left, failed atomic.Int64
	left.Store(l.count)
	began := time.Now()
	var first error
	var once sync.Once
	_ = l.atOnce(func(n int) error {
		message, back := l.message()
		for left.Add(-1) >= 0 {
			conn, err := l.dial(n, 'E', 0)
			if err == nil {
				err = echo(conn, message, back)
				conn.Close()
			}
			if err != nil {
				failed.Add(1)
				once.Do(func() { first = err })
			}
		}
		return nil
	})
	result["count"], result["failed"] = l.count, failed.Load()
	result["per_s"] = float64(l.count-failed.Load()) / time.Since(began).Seconds()
	return first
}
