// testapp: a small server and client for pods.
//
//	testapp [-addr :8080] [-echo :9000] [-sink :9001]   HTTP, a TCP echo, and what reads to the end and says nothing
//	testapp get URL [TIMEOUT]             one request
//	testapp marked MARK URL               one request, on a socket with that SO_MARK
//	testapp latency ADDRESS N             N requests of 100 bytes to the echo, one after the other: the median, in µs
//	testapp bulk ADDRESS FOR              as much to the sink as goes: MB/s
//	testapp every PERIOD FOR URL          requests, each on a connection of its own: how many failed, how many of them could not be made at all, how long the slowest took
//	testapp hold ADDRESS FOR              one connection to the echo, used ten times a second
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "get" {
		to := 5 * time.Second
		if len(os.Args) > 3 {
			to, _ = time.ParseDuration(os.Args[3])
		}
		get(&http.Client{Timeout: to}, os.Args[2])
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "marked" {
		marked(os.Args[2], os.Args[3])
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "latency" {
		latency(os.Args[2], os.Args[3])
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "bulk" {
		bulk(os.Args[2], os.Args[3])
		return
	}
	if len(os.Args) == 5 && os.Args[1] == "every" {
		every(os.Args[2], os.Args[3], os.Args[4])
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "hold" {
		hold(os.Args[2], os.Args[3])
		return
	}
	addr := flag.String("addr", ":8080", "")
	echo := flag.String("echo", ":9000", "")
	sink := flag.String("sink", ":9001", "")
	linger := flag.Duration("sleep-on-term", 0, "")
	flag.Parse()
	var ready, live atomic.Bool
	ready.Store(true)
	live.Store(true)
	probe := func(b *atomic.Bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if v := r.URL.Query().Get("set"); v != "" {
				b.Store(v == "1")
			} else if !b.Load() {
				w.WriteHeader(503)
			}
			fmt.Fprintln(w, b.Load())
		}
	}
	http.HandleFunc("/readyz", probe(&ready))
	http.HandleFunc("/healthz", probe(&live))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h, _ := os.Hostname()
		l, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintf(w, "host=%s node=%s local=%v remote=%s\n", h, os.Getenv("NODE_NAME"), l, r.RemoteAddr)
	})
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	go func() { fmt.Println("listening on", *addr); fmt.Println(http.ListenAndServe(*addr, nil)); os.Exit(1) }()
	go serve(*echo, func(c net.Conn) { io.Copy(c, c) })
	go serve(*sink, func(c net.Conn) { io.Copy(io.Discard, c) })
	s := <-c
	fmt.Println("got", s, "lingering", *linger)
	time.Sleep(*linger)
	fmt.Println("bye")
}

func serve(addr string, use func(net.Conn)) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			continue
		}
		go func() { use(c); c.Close() }()
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func get(client *http.Client, url string) {
	r, err := client.Get(url)
	must(err)
	io.Copy(os.Stdout, r.Body)
}

func marked(text, url string) {
	mark, err := strconv.ParseUint(text, 0, 32)
	must(err)
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_MARK, int(int32(mark)))
		})
		return errors.Join(err, set)
	}}
	get(&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dialer.DialContext}}, url)
}

func latency(addr, count string) {
	n, err := strconv.Atoi(count)
	must(err)
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	must(err)
	buffer, took := make([]byte, 100), make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		_, err = c.Write(buffer)
		must(err)
		_, err = io.ReadFull(c, buffer)
		must(err)
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	fmt.Println(took[n/2].Microseconds())
}

func bulk(addr, total string) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	must(err)
	buffer, began, sent := make([]byte, 1<<17), time.Now(), 0
	for end := began.Add(duration(total)); time.Now().Before(end); {
		n, err := c.Write(buffer)
		must(err)
		sent += n
	}
	must(c.(*net.TCPConn).CloseWrite())
	c.Read(buffer) // the end, when the sink has read all
	fmt.Printf("%.1f\n", float64(sent)/1e6/time.Since(began).Seconds())
}

func duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return d
}

func every(period, total, url string) {
	client := &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	end := time.Now().Add(duration(total))
	ok, failed, unmade, slowest, last := 0, 0, 0, time.Duration(0), ""
	for time.Now().Before(end) {
		began := time.Now()
		r, err := client.Get(url)
		if err != nil {
			failed, last = failed+1, err.Error()
			var op *net.OpError
			if errors.As(err, &op) && op.Op == "dial" {
				unmade++
			}
		} else {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
			ok++
		}
		if took := time.Since(began); took > slowest {
			slowest = took
		}
		time.Sleep(duration(period))
	}
	fmt.Printf("ok=%d failed=%d unmade=%d slowest=%dms %s\n", ok, failed, unmade, slowest.Milliseconds(), last)
}

func hold(addr, total string) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	end, buffer := time.Now().Add(duration(total)), make([]byte, 5)
	for n := 0; ; n++ {
		if time.Now().After(end) {
			fmt.Println("echoes:", n)
			return
		}
		c.SetDeadline(time.Now().Add(60 * time.Second))
		_, err := c.Write([]byte("hello"))
		if err == nil {
			_, err = io.ReadFull(c, buffer)
		}
		if err != nil {
			fmt.Println("failed after", n, "echoes:", err)
			os.Exit(1)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
