package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Steady loads: all connections move data for as long as it takes, and whoever receives counts for a while that begins
// after a warm-up. What lies in buffers on the way is then no part of the figures, and neither is the end, when those
// that are done leave the others more room.

const steadyBuffer = 32 << 10

// countIn counts what arrives on c in the window of time that begins after warm, and goes on reading to the end. Where
// there are counts to report, told gets this one as soon as it is known.
func countIn(c net.Conn, warm, window time.Duration, told func(int64)) {
	buffer := make([]byte, steadyBuffer)
	from := time.Now().Add(warm)
	until := from.Add(window)
	var count int64
	_ = c.SetReadDeadline(until) // one that gets nothing has a count as well
	for {
		n, err := c.Read(buffer)
		now := time.Now()
		if now.After(until) || err != nil {
			break
		}
		if now.After(from) {
			count += int64(n)
		}
	}
	_ = c.SetReadDeadline(time.Time{})
	told(count)
	_, _ = io.CopyBuffer(io.Discard, onlyReader{c}, buffer)
}

// onlyReader hides every shortcut that io.Copy would take.
type onlyReader struct{ io.Reader }

// serveCount answers mode C: the header's count is the window, eight more bytes are the warm-up, both in nanoseconds.
// The answer is the count, in eight bytes.
func serveCount(c net.Conn, window time.Duration) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(c, head); err != nil {
		return
	}
	countIn(c, time.Duration(binary.BigEndian.Uint64(head)), window, func(count int64) {
		_, _ = c.Write(binary.BigEndian.AppendUint64(nil, uint64(count)))
	})
}

func (l *load) steadyDown(result facts) error {
	// What is asked for never ends; the connection does.
	header := loadHeader('D', false, 1<<62)
	return l.steady(result, header, func(c net.Conn, told func(int64)) {
		countIn(c, l.warm, l.window, told)
	})
}

func (l *load) steadyUp(result facts) error {
	header := binary.BigEndian.AppendUint64(loadHeader('C', false, int64(l.window)), uint64(l.warm))
	block := make([]byte, steadyBuffer)
	_, _ = io.ReadFull(newNoise(1), block)
	return l.steady(result, header, func(c net.Conn, told func(int64)) {
		go func() {
			answer := make([]byte, 8)
			if _, err := io.ReadFull(c, answer); err != nil {
				told(-1)
				return
			}
			told(int64(binary.BigEndian.Uint64(answer)))
		}()
		for { // until all have been counted: then the connection is closed
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	})
}

// steady connects everything first, then lets all of them begin at once, and closes none before each has its count.
func (l *load) steady(result facts, header []byte, move func(c net.Conn, told func(int64))) error {
	conns := make([]net.Conn, l.conns)
	for n := range conns {
		conn, err := l.connect(n)
		if err != nil {
			return err
		}
		defer conn.Close()
		conns[n] = conn
	}
	probed := make(chan error, 1)
	go func() { probed <- l.probeBeside(result) }()
	counts := make(chan int64, len(conns))
	var moving sync.WaitGroup
	for _, conn := range conns {
		moving.Add(1)
		go func() {
			defer moving.Done()
			if _, err := conn.Write(header); err != nil {
				counts <- -1
				return
			}
			move(conn, func(count int64) { counts <- count })
		}()
	}
	seconds := l.window.Seconds()
	rates := make([]float64, len(conns))
	lost := false
	for n := range rates {
		count := <-counts
		lost = lost || count < 0
		rates[n] = float64(max(count, 0)) / 1e6 / seconds
	}
	err := <-probed
	for _, conn := range conns {
		_ = conn.Close()
	}
	moving.Wait()
	slices.Sort(rates)
	var sum float64
	for _, rate := range rates {
		sum += rate
	}
	result["mb_per_s"], result["slowest"], result["fastest"] = sum, rates[0], rates[len(rates)-1]
	result["p10"], result["p90"] = share(rates, 10), share(rates, 90)
	if lost {
		return errors.New("a connection ended before it was counted")
	}
	return err
}

// probeBeside measures round trips on a connection of their own while is counted.
func (l *load) probeBeside(result facts) error {
	if !l.probe {
		return nil
	}
	conn, err := l.dial(0, 'E', 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	until := time.Now().Add(l.warm + l.window)
	time.Sleep(l.warm)
	took, err := l.echoes(conn, func(done int) bool { return done == 0 || time.Now().Before(until) })
	report(result, took)
	return err
}

// share is the value below which the given percentage of the sorted values lies.
func share(sorted []float64, percent int) float64 {
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}
