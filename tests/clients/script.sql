-- psql from a file: one Query for each statement, COPY from the script itself, notices between.
create temporary table words (id int, word text);
copy words from stdin;
1	one
2	two
3	three
\.
insert into words select g, 'word ' || g from generate_series(4, 1000) g;
update words set word = upper(word) where id % 2 = 0;
delete from words where id > 900 returning *;
do $body$ begin raise notice 'half; way'; end $body$;
select count(*) from words; select 'semi;colon', E'it\'s', $$a;b$$;
select * from words where word = 'no
such
word';
/* a comment; with a semicolon */ select 1;
copy (select * from words order by id limit 10) to stdout;
explain (costs off) select * from words;
listen here; notify here, 'there';
begin;
select 1/0;
select 'not run';
rollback;
savepoint outside;
select 'ünïcödé', '日本語', '🦀';
vacuum words;
drop table words;
