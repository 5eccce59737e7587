// lib/pq: simple, prepared, transactions, COPY, errors. Usage: mixed_go ROUNDS; where to, from the PG* environment.
package main

import (
	"database/sql"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/lib/pq"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func exec(db *sql.DB, query string, args ...any) {
	_, err := db.Exec(query, args...)
	must(err)
}

func drain(db *sql.DB, query string, args ...any) {
	rows, err := db.Query(query, args...)
	must(err)
	for rows.Next() {
	}
	must(rows.Close())
}

func round(n int) {
	db, err := sql.Open("postgres", "application_name=lib-pq")
	must(err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	exec(db, "create temporary table t (id int, note text)")
	exec(db, "select 1 as a; select 'two' as b")
	for i := 0; i < 20; i++ {
		exec(db, "insert into t values ($1, $2)", i, "nöte "+strconv.Itoa(i))
	}
	selects, err := db.Prepare("select id, note from t where id = $1")
	must(err)
	for i := 0; i < 20; i++ {
		var id int
		var note string
		must(selects.QueryRow(i).Scan(&id, &note))
	}
	must(selects.Close())
	drain(db, "select * from generate_series(1, 5000)")
	drain(db, "select length($1), $2::text", strings.Repeat("x", 50000), nil)
	for _, broken := range []string{"selekt 1", "select 1/0", "select 1; select 1/0; select 3"} {
		if _, err := db.Exec(broken); err == nil {
			log.Fatal("the server should have refused: ", broken)
		}
	}
	if _, err := db.Exec("select 1 / $1::int", 0); err == nil {
		log.Fatal("the server should have refused a division by zero")
	}
	tx, err := db.Begin()
	must(err)
	copies, err := tx.Prepare(pq.CopyIn("t", "id", "note"))
	must(err)
	for i := 0; i < 100; i++ {
		_, err := copies.Exec(i, "copied")
		must(err)
	}
	_, err = copies.Exec()
	must(err)
	must(copies.Close())
	_, err = tx.Exec("update t set note = $1 where id < $2", "changed", 10+n%5)
	must(err)
	must(tx.Commit())
}

func main() {
	rounds, err := strconv.Atoi(os.Args[1])
	must(err)
	for n := 0; n < rounds; n++ {
		round(n)
	}
}
